"""The engine: one local loop (`lanes`), one round loop (`simulate`), nothing algorithm-specific."""
