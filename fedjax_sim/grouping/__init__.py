"""Who belongs together: similarities, clustering kernels, scores; pure functions of arrays."""
