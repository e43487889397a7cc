"""The textbook effects of local optimizers, an effect a file; see `benchmarks/optimizers.py`."""
