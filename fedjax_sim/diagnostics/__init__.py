"""Diagnosis: what a run's course says, and what the ground below it looks like."""
