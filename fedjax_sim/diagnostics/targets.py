"""One run's curve in a few numbers: when it met a target, where it ended, how steady it was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DONE, UNFINISHED, STOPPED, DIVERGED = "done", "unfinished", "stopped", "diverged"


class Course(NamedTuple):
    """One run as it is compared: the rounds on which the metric was measured, `[n]` each.

    Attributes:
      seed: of the run; runs of equal seed are paired.
      rounds: float `[n]`, ascending.
      values: float `[n]`, all finite.
      bytes: float `[n]` or None, up- and downlink from the start to that round.
      seconds: float `[n]` or None, from the start to the end of that round.
      end: rounds, bytes and seconds (None where not known) at the last round that ran.
      ended: `done`, or `unfinished` (cut off: what would have come is not known), `stopped` (a
        policy gave up before the last round), `diverged`.
    """

    seed: int
    rounds: np.ndarray
    values: np.ndarray
    bytes: np.ndarray | None
    seconds: np.ndarray | None
    end: dict[str, float | None]
    ended: str = DONE

    def axis(self, name: str) -> np.ndarray | None:
        """`rounds`, `bytes` or `seconds` by name."""
        return {"rounds": self.rounds, "bytes": self.bytes, "seconds": self.seconds}[name]


class Steadiness(NamedTuple):
    """How a curve behaves in its last third; NaN where too few points are in it.

    Attributes:
      variance: of the values, the sample's (n - 1).
      spread: standard deviation about the straight line through them (n - 2), so that a curve
        that still climbs is not called unsteady for it.
      largest_drop: how far the value fell short of the best seen so far, at most.
      sign_changes: share of steps that turn round, 0 to 1; 2/3 for pure noise, 1 where
        every step undoes the one before, 0 on a monotone curve.
    """

    variance: float
    spread: float
    largest_drop: float
    sign_changes: float


def crossing(values: np.ndarray, target: float, sign: int) -> float:
    """Where the running best first meets a target.

    Between two measurements the running best is taken as straight, or as geometric where less
    is better and both are positive, since losses fall by factors: the position is then exact
    for a loss `c q^t`.

    Args:
      values: `[n]`, finite.
      target: to be met or passed.
      sign: 1 where more is better, -1 where less is.

    Returns:
      A position in 0 .. n - 1, between measurements as a fraction; infinity where it is never met.

    Example:
      >>> crossing(np.array([0.25, 0.5, 0.375, 0.75]), 0.625, 1)
      2.5
    """
    best = running_best(values, sign)
    met = sign * best >= sign * target
    if not met.any():
        return math.inf
    i = int(met.argmax())
    if i == 0:
        return 0.0
    before, after = float(best[i - 1]), float(best[i])
    if sign < 0 and after > 0 and target > 0:
        share = math.log(before / target) / math.log(before / after)
    else:
        share = (target - before) / (after - before)
    return i - 1 + min(max(share, 0.0), 1.0)


def running_best(values: np.ndarray, sign: int) -> np.ndarray:
    """The best value seen so far, `[n]`."""
    return sign * np.maximum.accumulate(sign * np.asarray(values, float))


def reached_at(course: Course, axis: str, target: float, sign: int) -> float:
    """Rounds, bytes or seconds to a target, interpolated; infinity where it is never met.

    A target that the first measurement meets counts as met there.
    """
    along = course.axis(axis)
    assert along is not None
    at = crossing(course.values, target, sign) if len(course.values) else math.inf
    return float(np.interp(at, np.arange(len(along)), along)) if math.isfinite(at) else at


def end_level(values: np.ndarray) -> float:
    """Mean of the last tenth of the measurements, at least one; NaN where there is none."""
    n = len(values)
    return float(np.mean(values[n - max(math.ceil(n / 10), 1) :])) if n else math.nan


def best_level(values: np.ndarray, sign: int) -> float:
    """The best value; NaN where there is none."""
    return float(sign * np.max(sign * values)) if len(values) else math.nan


def steadiness(values: np.ndarray, sign: int) -> Steadiness:
    """Variance, spread, largest drop and turning rate of the last third of the measurements.

    Args:
      values: `[n]`, finite.
      sign: 1 where more is better, -1 where less is.
    """
    n = len(values)
    first = n - max(math.ceil(n / 3), 1) if n else 0
    tail = np.asarray(values[first:], float)
    if len(tail) < 2:
        return Steadiness(math.nan, math.nan, math.nan, math.nan)
    drops = sign * (running_best(values, sign)[first:] - tail)
    variance = float(np.var(tail, ddof=1))
    if len(tail) < 3:
        return Steadiness(variance, math.nan, float(drops.max()), math.nan)
    at = np.arange(len(tail)) - (len(tail) - 1) / 2
    slope = float(at @ tail) / float(at @ at)
    residual = tail - tail.mean() - slope * at
    spread = math.sqrt(float(residual @ residual) / (len(tail) - 2))
    return Steadiness(variance, spread, float(drops.max()), _turns(np.diff(tail)))


def _turns(steps: np.ndarray) -> float:
    moves = np.sign(steps[steps != 0])
    return float(np.mean(moves[1:] != moves[:-1])) if len(moves) > 1 else 0.0


class Target(NamedTuple):
    """What runs are to reach.

    Attributes:
      value: in the metric's own units.
      origin: where it comes from, in words.
    """

    value: float
    origin: str


def default_target(contestants: Sequence[tuple[str, Sequence[Course]]], sign: int) -> Target | None:
    """The worst contestant's median end level, as long as it has to be worked for.

    A level that half of all runs meet at their first measurement tells nothing of speed (a
    contestant that never learnt ends there): the next worst contestant is taken then.

    Args:
      contestants: `(name, courses)` of each.
      sign: 1 where more is better, -1 where less is.

    Returns:
      The target; None where nothing was measured.
    """
    levels: list[tuple[float, str, int]] = []
    for name, courses in contestants:
        ends = [end_level(c.values) for c in courses if len(c.values)]
        if ends:
            levels.append((float(np.median(ends)), name, len(ends)))
    firsts = np.array([c.values[0] for _, courses in contestants for c in courses if len(c.values)])
    levels.sort(key=lambda level: sign * level[0])
    for i, (level, name, seeds) in enumerate(levels):
        trivial = np.mean(sign * firsts >= sign * level) >= 0.5
        if not trivial or i == len(levels) - 1:
            words = f"the end level of {name}" + (", median over seeds" if seeds > 1 else "")
            worse = levels[0][1] if i == 1 else f"{i} others"
            rest = f"; most met that of {worse} at their first evaluation"
            return Target(level, words + (rest if i else ", the worst of them"))
    return None
