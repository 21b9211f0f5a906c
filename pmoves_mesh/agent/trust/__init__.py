"""Trust at work: identities are given, renewed, revoked and rotated, and whoever must know is told."""
