"""How good a candidate is, by the metric of the task, and what so many samples can tell."""
