"""Liveness: an agent keeps its own lease, and watches over the others'."""
