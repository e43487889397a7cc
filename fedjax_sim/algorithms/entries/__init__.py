"""What the registry lists, one file a family of algorithms."""
