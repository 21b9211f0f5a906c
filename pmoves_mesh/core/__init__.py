"""The pure core: events, trust and the registry, with no I/O, no clock and no randomness."""
