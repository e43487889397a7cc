"""Which way a metric is better, told by its name."""

from __future__ import annotations

_HIGHER_IS_BETTER = ("accuracy",)
_DISPERSIONS = ("_std", "_jain", "_gini", "_gap")  # a model that is bad for all is even too


def better(name: str) -> int:
    """1 where more is better, -1 where less is, 0 where neither can be said."""
    if name.endswith(_DISPERSIONS):
        return 0
    if any(word in name for word in _HIGHER_IS_BETTER):
        return 1
    return -1 if "loss" in name or name.endswith(("mse", "mae")) else 0
