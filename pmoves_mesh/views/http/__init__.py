"""The HTTP view: discovery and registration as JSON."""
