"""(G, B) gradient dissimilarity, fitted to what a run recorded.

The convergence bounds of federated averaging rest on `mean |grad f_i|^2 <= G^2 + B^2 |grad f|^2`:
G is what clients disagree about even at the optimum, B how much more the largest of them pull
than their mean does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_sim.core.checks import InputError

_SMOOTH = 2  # readings to either side whose mean sets a reading's scale
_LEAST = 5


class Dissimilarity(NamedTuple):
    """The fitted constants, each with its interval.

    Attributes:
      g: G, in units of a gradient's length; at least 0.
      b: B; at least 1.
      g_interval: `(low, high)`.
      b_interval: `(low, high)`.
      readings: pairs that were used.
    """

    g: float
    b: float
    g_interval: tuple[float, float]
    b_interval: tuple[float, float]
    readings: int


def fit(
    square: Sequence[float] | np.ndarray,
    client_square: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Dissimilarity | None:
    """The line `client_square = G^2 + B^2 square` with `G >= 0` and `B >= 1`.

    By least squares on `client_square - square`, whose two coefficients are then at least 0,
    each reading's error being taken as proportional to its level (so that the late, small
    readings, which tell G, count as much as the early ones). The interval is the percentile
    bootstrap over readings; with fewer than 30 of them it is too narrow. Noise in `square`
    pulls B down and G up: ask more clients of the probe, or average readings, where that matters.

    Args:
      square: `|grad f|^2` of each reading, `[n]`; those not finite are left out.
      client_square: mean over clients of `|grad f_i|^2`, `[n]`.
      level: of the interval.
      resamples: bootstrap samples.
      seed: of the bootstrap.

    Returns:
      None with fewer than five readings.

    Reference: Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated
      Learning, 2019, arXiv:1910.06378, assumption A1.
    """
    x, y = np.asarray(square, float), np.asarray(client_square, float)
    if x.shape != y.shape or x.ndim != 1:
        raise InputError("client_square", y.shape, f"must be [n] as square is, {x.shape}")
    if not 0 < level < 1:
        raise InputError("level", level, "must lie between 0 and 1")
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    if len(x) < _LEAST:
        return None
    scale = _level(y)
    g, b = _line(x, y, scale)
    draw = np.random.default_rng(seed)
    picks = draw.integers(0, len(x), (resamples, len(x)))
    many = np.array([_line(x[at], y[at], scale[at]) for at in picks])
    low, high = np.quantile(many, [(1 - level) / 2, (1 + level) / 2], axis=0)
    (g_low, b_low), (g_high, b_high) = low.tolist(), high.tolist()
    return Dissimilarity(g, b, (g_low, g_high), (b_low, b_high), len(x))


def fit_records(
    records: Sequence[Mapping[str, Any]],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Dissimilarity | None:
    """`fit` to a run's records, by the drift panel's noise probe.

    Args:
      records: as in `metrics.jsonl`; rounds without a reading are passed over.
      level: of the interval.
      resamples: bootstrap samples.
      seed: of the bootstrap.
    """
    names = ("drift_probe_square", "drift_probe_client_square")
    pairs = [[r.get(n) for n in names] for r in records]
    known = np.array([p for p in pairs if None not in p], float).reshape(-1, 2)
    return fit(known[:, 0], known[:, 1], level=level, resamples=resamples, seed=seed)


def _level(y: np.ndarray) -> np.ndarray:
    """The size of each reading: the mean of `|y|` around it."""
    size = np.abs(y)
    at = np.arange(len(y))
    near = [size[max(i - _SMOOTH, 0) : i + _SMOOTH + 1].mean() for i in at]
    floor = 1e-9 * size.max()
    return np.maximum(near, floor if floor > 0 else 1.0)


def _line(x: np.ndarray, y: np.ndarray, scale: np.ndarray) -> tuple[float, float]:
    """`(G, B)`: nonnegative least squares of `y - x` on `(1, x)`, in closed form."""
    one, slope, excess = 1 / scale, x / scale, (y - x) / scale
    a, b = _unbounded(one, slope, excess)
    if a < 0 or b < 0 or not math.isfinite(a + b):
        choices = [
            (max(_alone(one, excess), 0.0), 0.0),
            (0.0, max(_alone(slope, excess), 0.0)),
        ]
        a, b = min(choices, key=lambda c: float(np.sum((excess - c[0] * one - c[1] * slope) ** 2)))
    return math.sqrt(a), math.sqrt(1 + b)


def _unbounded(one: np.ndarray, slope: np.ndarray, excess: np.ndarray) -> tuple[float, float]:
    oo, os, ss = one @ one, one @ slope, slope @ slope
    oe, se = one @ excess, slope @ excess
    determinant = oo * ss - os * os
    if determinant <= 1e-12 * oo * ss:
        return math.nan, math.nan
    return float((ss * oe - os * se) / determinant), float((oo * se - os * oe) / determinant)


def _alone(column: np.ndarray, excess: np.ndarray) -> float:
    square = column @ column
    return float(column @ excess / square) if square > 0 else 0.0
