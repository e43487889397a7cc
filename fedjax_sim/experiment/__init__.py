"""Runs: configuration, session, records, checkpoints, pictures."""
