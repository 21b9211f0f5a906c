"""Tailscale on this host: what its program says, what goes wrong with it, and how it is set up."""
