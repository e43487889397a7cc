"""Rounds to a target, levels, noise, and intervals over seeds."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean over seeds with its 95 % Student-t interval."""

    mean: float
    low: float
    high: float

    def each(self, change: Any) -> Interval:
        """The interval of an increasing function's values."""
        return Interval(*(float(change(v)) for v in self))


def interval(values: Any) -> Interval:
    """Mean and interval of `[n]` values; of one value, that value."""
    v = np.asarray(values, float)
    mean = float(v.mean())
    if len(v) < 2:
        return Interval(mean, mean, mean)
    half = float(stats.t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v)))
    return Interval(mean, mean - half, mean + half)


def rounds_to(curve: np.ndarray, target: float, *, rising: bool) -> np.ndarray:
    """The first round at which each run's best so far meets `target`; R + 1 where none does.

    Args:
      curve: `[n, R]`, NaN after a run's end.
      target: to be met from below (`rising`) or from above.
      rising: whether larger is better.
    """
    met = (curve >= target) if rising else (curve <= target)
    return np.where(met.any(1), met.argmax(1) + 1, curve.shape[1] + 1).astype(float)


def late(curve: np.ndarray) -> np.ndarray:
    """The mean of each run's last tenth; infinite where it ended before."""
    part = curve[:, -max(curve.shape[1] // 10, 1) :]
    return np.where(np.isfinite(part).all(1), part.mean(1), np.inf)


def swing(curve: np.ndarray) -> np.ndarray:
    """Standard deviation of each run's last third about its own slow course.

    Half the mean square of differences between successive rounds (von Neumann), which a trend
    hardly touches.
    """
    part = curve[:, -max(curve.shape[1] // 3, 3) :]
    return np.sqrt(np.mean(np.diff(part, axis=1) ** 2, axis=1) / 2)
