"""What a change of precision may cost, measured on the task's own scores."""
