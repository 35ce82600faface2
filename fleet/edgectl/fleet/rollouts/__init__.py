"""The planner of rollouts and its gates. Pure: time and reports are arguments."""
