"""A sketch read as a curve, and a stretch of it parted into a smooth curve and what is left."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedjax_sim.diagnostics import robust
from fedjax_sim.diagnostics.series import Sketch

FEWEST = 8
"""Bins that a stretch needs, also where its share of the run has fewer."""


class Course(NamedTuple):
    """The bins in use of a sketch.

    Attributes:
      t: `[m]`, middle of each bin, in points from 0.
      y: `[m]`, mean.
      low: `[m]`, least point.
      high: `[m]`, greatest point.
      n: `[m]`, points.
      spread: `[m]`, with `steps` and `turns`: see `Sketch`.
      steps: `[m]`.
      turns: `[m]`.
      latest: `[<= M/2]`, the latest points themselves, in order.
      first: the first point.
      stride: points of a full bin.
      points: all finite points, R.
    """

    t: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    spread: np.ndarray
    steps: np.ndarray
    turns: np.ndarray
    latest: np.ndarray
    first: float
    stride: int
    points: int


def course_of(sketch: Sketch) -> Course:
    """The curve that a sketch holds; a last bin that is not half full is left out of it."""
    counts = np.asarray(sketch.n)
    used = int(np.sum(counts > 0))
    if used > 1 and counts[used - 1] < counts[used - 2] / 2:
        used -= 1
    names = ("mean", "low", "high", "n", "spread", "steps", "turns")
    y, low, high, n, spread, steps, turns = (
        np.asarray(getattr(sketch, name), np.float64)[:used] for name in names
    )
    return Course(
        t=np.cumsum(n) - (n + 1) / 2,
        y=y,
        low=low,
        high=high,
        n=n,
        spread=spread,
        steps=steps,
        turns=turns,
        latest=_unrolled(np.asarray(sketch.latest, np.float64), int(sketch.seen)),
        first=float(sketch.first),
        stride=int(sketch.stride),
        points=int(sketch.seen),
    )


def _unrolled(ring: np.ndarray, seen: int) -> np.ndarray:
    """A ring of the latest points in their order."""
    return ring[:seen] if seen <= ring.size else np.roll(ring, -(seen % ring.size))


def tail(course: Course, share: float, least: int = FEWEST) -> slice:
    """The bins of the last `share` of the run, at least `least`."""
    m = len(course.y)
    return slice(m - min(m, max(least, int(np.ceil(share * m)))), m)


class Stretch(NamedTuple):
    """The last part of a course.

    Attributes:
      t: `[k]`, positions in points.
      curve: `[k]`, a parabola through the means.
      left: `[k]`, means less the curve.
      size2: `[k]`, mean squared deviation of a bin's points from the curve.
      step2: mean squared step of points, the curve's own taken off.
      high: `[k]`, greatest point less the curve.
      low: `[k]`, least point less the curve.
    """

    t: np.ndarray
    curve: np.ndarray
    left: np.ndarray
    size2: np.ndarray
    step2: float
    high: np.ndarray
    low: np.ndarray


def stretch(course: Course, share: float) -> Stretch | None:
    """Part the last `share` of a course; None where it has fewer than 8 bins."""
    part = tail(course, share)
    t, y, n = course.t[part], course.y[part], course.n[part]
    if len(y) < FEWEST:
        return None
    left = robust.detrended(t, y)
    curve = y - left
    pace2 = np.gradient(curve, t) ** 2
    inside = course.spread[part] / n - pace2 * (n**2 - 1) / 12
    count = float(n.sum())
    return Stretch(
        t=t,
        curve=curve,
        left=left,
        size2=np.maximum(inside, 0.0) + left**2,
        step2=max(float((course.steps[part] - n * pace2).sum()) / count, 0.0),
        high=course.high[part] - curve,
        low=course.low[part] - curve,
    )
