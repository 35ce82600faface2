"""A release in a slot: the transition table, the thread that executes it, probation, and the way back."""
