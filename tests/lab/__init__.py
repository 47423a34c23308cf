"""Real daemons on loopback addresses, for tests and for making captures."""
