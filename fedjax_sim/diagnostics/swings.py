"""Structured ups and downs in a course: what noise does not explain."""

from __future__ import annotations

import numpy as np

from fedjax_sim.diagnostics import robust
from fedjax_sim.diagnostics.course import FEWEST, Course, Stretch, stretch, tail

LEAST_REGULARITY = 0.4
"""Autocorrelation a period apart: a wave with as much noise as itself has 0.5."""
LEAST_TROUGH = -0.2
"""Autocorrelation about half a period apart: a wave must also swing back."""
LEAST_SURPRISE = 3.3
"""Standard errors: noise has some 50 lags in which to look like a rhythm."""
ALTERNATES = -0.45
"""Autocorrelation of neighbours below which ups and downs alternate; noise has 0."""
SURELY = 2.6
"""Standard errors by which it must be below that of noise, and the turning rate above."""
OFTEN, OFTEN_SPREAD = 2 / 3, 8 / 45
"""Share of points at which noise turns, and its variance times the number of points."""


def swings(course: Course, base: float) -> dict[str, float]:
    """Structured ups and downs: their rhythm, size and how they fade.

    The window is the last half of the run; where it shows no rhythm, the last three quarters
    and nine tenths are tried, for slow waves.

    Returns:
      `period` (points), `regularity` (autocorrelation a period apart), `trough` (the lowest
      before that), `surprise` (regularity in standard errors), `swing` (peak to trough over
      the local mean excess), `fading` (factor by which the swings shrink over half the run;
      below 1 where they grow), `cycles` seen, `structured` (1 where noise does not explain
      them: a rhythm, or an alternation from point to point).
    """
    found = [_swings(course, part, base) for part in _stretches(course)]
    none = dict.fromkeys(("period", "regularity", "trough", "surprise", "swing", "cycles"), 0.0)
    none |= {"fading": 1.0, "structured": 0.0}
    return next((f for f in found if f["structured"]), found[0] if found else none)


def _stretches(course: Course) -> list[Stretch]:
    parts = [stretch(course, share) for share in (0.5, 0.75, 0.9)]
    return [part for part in parts if part is not None]


def _swings(course: Course, part: Stretch, base: float) -> dict[str, float]:
    beat, period = _beat(course, part)
    # Neighbours that differ more than noise would, and nearly every point a turning point.
    half = tail(course, 0.5)
    turning = float(course.turns[half].sum() / course.n[half].sum())
    memory, count = 1 - von_neumann(part) / 2, float(course.n[half].sum())
    often = OFTEN + SURELY * (OFTEN_SPREAD / count) ** 0.5
    alternates = (
        memory < ALTERNATES and memory * count**0.5 < -SURELY and turning > min(often, 0.99)
    )
    if alternates and not is_regular(beat):
        period = 2.0
    upper, lower = np.quantile(part.high, 0.95), np.quantile(part.low, 0.05)
    mean_excess = float(np.mean(part.curve)) - base
    growth = robust.envelope_growth(part.t, part.size2, period / course.stride)
    return {
        "period": period,
        "regularity": beat.regularity,
        "trough": beat.trough,
        "surprise": beat.surprise,
        "swing": float((upper - lower) / mean_excess) if mean_excess > 0 else 0.0,
        "fading": float(np.exp(np.clip(-growth * course.points / 2, -50, 50))),
        "cycles": float(np.ptp(part.t)) / period if period else 0.0,
        "structured": float(is_regular(beat) or alternates),
    }


def _beat(course: Course, part: Stretch) -> tuple[robust.Rhythm, float]:
    """The rhythm of the bins' means, or of the latest points, and its period in points.

    A period of a few bins may be a short one seen through too coarse a grid: the latest points
    decide where they have a rhythm.
    """
    if course.stride > 1 and len(course.latest) >= FEWEST:
        at = np.arange(len(course.latest), dtype=float)
        latest = robust.rhythm(robust.detrended(at, course.latest))
        if is_regular(latest):
            return latest, latest.period
    beat = robust.rhythm(part.left)
    return beat, beat.period * course.stride


def is_regular(beat: robust.Rhythm) -> bool:
    """Whether a rhythm is there beyond what noise shows."""
    return (
        beat.regularity >= LEAST_REGULARITY
        and beat.trough <= LEAST_TROUGH
        and beat.surprise >= LEAST_SURPRISE
    )


def von_neumann(part: Stretch) -> float:
    """Mean squared step over the variance: 2 for noise, near 0 for a wave, 4 for an alternation.

    Reference: J. von Neumann, Distribution of the ratio of the mean square successive
      difference to the variance, 1941.
    """
    around = float(np.mean(part.size2))
    return min(part.step2 / around, 4.0) if around > 0 else 2.0
