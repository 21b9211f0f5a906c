"""TLS between the parts of a mesh: each side shows its identity, and is let in by its SPIFFE name."""
