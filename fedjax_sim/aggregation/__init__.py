"""Many reports to one update."""
