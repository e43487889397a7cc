"""Runs whose verdict is known by construction: one family a file, the truth rule in `rules`."""
