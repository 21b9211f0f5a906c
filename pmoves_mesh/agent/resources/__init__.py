"""What this host has, how much of it is in use, and how other hosts fare."""
