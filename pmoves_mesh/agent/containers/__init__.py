"""Containers of this host: found by their labels, registered by this node, and gone when they are."""
