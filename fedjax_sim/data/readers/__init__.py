"""Readers of data files: strict parsers, and a cache that downloads what is missing."""
