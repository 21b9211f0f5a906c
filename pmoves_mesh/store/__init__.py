"""What a node must not forget: its counters, its registrations, its unsent events and its snapshot."""
