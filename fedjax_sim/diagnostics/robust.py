"""Robust statistics on short series: trends with intervals, periods, envelopes (NumPy)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CONFIDENT = 2.58
"""Two-sided 99 %: a verdict looks at several trends, and one in twenty would be too many."""
FEW = 12
"""Points below which autocorrelation cannot be told from a bend."""
MOST_PERSISTENT = 0.9
"""Autocorrelation believed at most: a bend in the curve looks like 1."""


class Trend(NamedTuple):
    """A robust straight line.

    Attributes:
      slope: units a point.
      low: lower end of the slope's 99 % interval.
      high: upper end.
      end: the line's value at the last point.
      noise: robust standard deviation about the line.
    """

    slope: float
    low: float
    high: float
    end: float
    noise: float


def trend(t: np.ndarray, y: np.ndarray) -> Trend:
    """Theil-Sen's slope, the median over all pairs, with Sen's interval.

    The interval counts pairs by Kendall's S, whose variance is widened for the residuals'
    autocorrelation: a slow wave must not pass for a trend.

    Args:
      t: positions `[m]`, increasing.
      y: values `[m]`.

    Returns:
      `Trend`; slope 0 within plus-minus infinity for fewer than 3 points.

    Cost: O(m^2) time and memory.

    Reference: P. K. Sen, Estimates of the regression coefficient based on Kendall's tau, 1968;
      G. V. Bayley and J. M. Hammersley, The effective number of independent observations in an
      autocorrelated time series, 1946.
    """
    m = len(y)
    if m < 3:
        return Trend(0.0, -np.inf, np.inf, float(y[-1]) if m else 0.0, 0.0)
    i, j = np.triu_indices(m, 1)
    slopes = np.sort((y[j] - y[i]) / (t[j] - t[i]))
    slope = float(np.median(slopes))
    rest = y - slope * t
    level = float(np.median(rest))
    left = rest - level
    variance = m * (m - 1) * (2 * m + 5) / 18 * _widening(left)
    away = CONFIDENT * np.sqrt(variance)
    last = len(slopes) - 1
    low = slopes[int(np.clip(np.floor((len(slopes) - away) / 2) - 1, 0, last))]
    high = slopes[int(np.clip(np.ceil((len(slopes) + away) / 2), 0, last))]
    noise = 1.4826 * float(np.median(np.abs(left)))
    return Trend(slope, float(low), float(high), level + slope * float(t[-1]), noise)


def _widening(left: np.ndarray) -> float:
    """How much autocorrelation widens the variance of Kendall's S; at least 1.

    By the effective number of points of an AR(1) process, m (1 - rho) / (1 + rho), with rho of
    the ranks, whose estimate from few points is too small by about (1 + 4 rho) / m.
    """
    m = len(left)
    if m < FEW:
        return 1.0
    ranks = np.argsort(np.argsort(left, kind="stable"), kind="stable").astype(float)
    rho = autocorrelation(ranks - ranks.mean(), 1)
    rho = min(rho + (1 + 4 * rho) / m, MOST_PERSISTENT)
    return max(1.0, (1 + rho) / (1 - rho))


def autocorrelation(r: np.ndarray, lag: int) -> float:
    """Correlation of a centred series with itself `lag` points later; 0 where undefined."""
    a, b = r[:-lag], r[lag:]
    scale = np.sqrt(np.sum(a * a) * np.sum(b * b))
    return float(np.sum(a * b) / scale) if scale > 0 else 0.0


def detrended(t: np.ndarray, y: np.ndarray, degree: int = 2) -> np.ndarray:
    """What a least-squares polynomial leaves of `y`."""
    u = (t - t.mean()) / max(np.ptp(t), 1e-300)
    return y - np.polyval(np.polyfit(u, y, degree), u)


class Rhythm(NamedTuple):
    """The strongest repetition in a series.

    Attributes:
      period: points a cycle; 0 where there is none.
      regularity: autocorrelation one period apart, in [-1, 1].
      trough: the lowest autocorrelation before it.
      surprise: regularity over the standard error that noise of the same persistence has.
    """

    period: float
    regularity: float
    trough: float
    surprise: float


NO_RHYTHM = Rhythm(0.0, 0.0, 0.0, 0.0)


def rhythm(r: np.ndarray) -> Rhythm:
    """Find the period at which a detrended series repeats itself.

    The autocorrelation is followed past its first dip below zero to its greatest peak; at
    least two and a half cycles must fit. Noise has peaks as well: their standard error is
    1/sqrt(m), and more for persistent noise (Bartlett's formula for an AR(1) process).

    Args:
      r: residuals `[m]`.

    Returns:
      `Rhythm`; period 0 where nothing repeats.

    Cost: O(m^2).
    """
    m = len(r)
    longest = int(m / 2.5)
    if m < 8 or longest < 2 or not np.any(np.abs(r) > 0):
        return NO_RHYTHM
    rho = np.array([1.0] + [autocorrelation(r, k) for k in range(1, longest + 1)])
    below = np.flatnonzero(rho < 0)
    if not below.size or below[0] + 1 >= len(rho):
        return NO_RHYTHM
    start = int(below[0]) + 1
    at = start + int(np.argmax(rho[start:]))
    # A multiple of the period repeats as well as the period: take the shortest nearly as good.
    peaks = [k for k in range(start, at) if rho[k] >= 0.85 * rho[at] and _is_peak(rho, k)]
    at = peaks[0] if peaks else at
    # And twice the period repeats it again: noise does so only by a second accident.
    if 2 * at <= 0.6 * m and autocorrelation(r, 2 * at) < rho[at] / 3:
        return NO_RHYTHM
    persistence = max(rho[1], 0.0) if not _is_smooth(r) else 0.0
    bartlett = np.sqrt((1 + persistence**2) / (1 - min(persistence, 0.98) ** 2))
    error = bartlett / np.sqrt(m - at)
    return Rhythm(float(at), float(rho[at]), float(rho[:at].min()), float(rho[at] / error))


def _is_peak(rho: np.ndarray, k: int) -> bool:
    return rho[k] >= rho[k - 1] and (k + 1 >= len(rho) or rho[k] >= rho[k + 1])


def _is_smooth(r: np.ndarray) -> bool:
    """Whether a series moves on in the direction it had, as a wave does and noise does not.

    Squared steps over two points are twice those over one for a random walk, at most that for
    any AR(1) noise, and four times for a smooth wave.
    """
    one, two = np.sum(np.diff(r) ** 2), np.sum((r[2:] - r[:-2]) ** 2)
    return bool(two > 2.6 * one)


def envelope_growth(t: np.ndarray, size2: np.ndarray, period: float) -> float:
    """Logarithmic growth a point of the size of swings.

    Args:
      t: positions `[m]`, in points.
      size2: mean squared deviation from a smooth curve, `[m]`.
      period: of the swings, in bins.

    Returns:
      The slope of a Theil-Sen line through the log root mean square over windows one period
      long (at least 4 bins); 0 where there are fewer than 3 windows.
    """
    width = int(max(4, round(period)))
    if len(size2) < width + 2:
        return 0.0
    mean2 = np.convolve(size2, np.ones(width), "valid") / width
    if not np.all(mean2 > 0):
        return 0.0
    at = np.convolve(t, np.ones(width), "valid") / width
    return trend(at, np.log(mean2)).slope / 2


def smoothed(y: np.ndarray, width: int) -> np.ndarray:
    """Running means over `width` values, `[m - width + 1]`."""
    return np.convolve(y, np.ones(width) / width, "valid")


def middle_mean(y: np.ndarray) -> float:
    """Mean of the middle half of the values: robust, and fair to swings."""
    if not y.size:
        return float("nan")
    ordered, cut = np.sort(y), y.size // 4
    return float(ordered[cut : y.size - cut].mean())
