"""From sketches to numbers: what a verdict rests on, and nothing that it does not say.

All figures are of one series, the loss (an accuracy is turned into `1 - accuracy` before), in
its own units a point, where a point is a round on which it was measured. The *excess* is the
loss above the lowest value that is known to be possible, or above the limit that the present
pace leads to where nothing is known.
"""

from __future__ import annotations

import itertools

import numpy as np

from fedjax_sim.diagnostics import robust
from fedjax_sim.diagnostics.course import FEWEST, Course, course_of, stretch, tail
from fedjax_sim.diagnostics.series import Sketch
from fedjax_sim.diagnostics.swings import swings, von_neumann

TINY = 1e-12
"""Of the start's excess: below this a logarithm would fit rounding errors."""
EARLIER = 8.0
"""Factor by which another loss may have begun higher: one round of many local steps takes off
that much; more than that is an explosion."""
SLOWEST = 0.97
"""Ratio of the falls of two neighbouring quarters that extrapolation believes at most."""


def of_loss(sketch: Sketch, floor: float | None, *, start: float | None = None) -> dict[str, float]:
    """All numbers of the series that is judged.

    Args:
      sketch: of the loss.
      floor: the lowest possible value, or None. A loss that ends below it is not the objective
        that it bounds (a train loss along the clients' own steps): it is judged without, and
        `below_floor` is 1.
      start: another loss's first value, which may tell better where the run began.

    Returns:
      Those of `level`, `noise`, `recent`, `swings` and `growth`, and `broken`: 1 where the latest
      value was not finite.
    """
    course = course_of(sketch)
    numbers = {"broken": float(sketch.broken), "points": float(course.points)}
    if not len(course.y):
        return numbers
    below = floor is not None and robust.middle_mean(course.y[tail(course, 0.25, 4)]) < floor
    numbers["below_floor"], floor = float(below), None if below else floor
    with np.errstate(all="ignore"):
        numbers |= level(course, floor, start)
        base, start = numbers["base"], numbers["start_excess"]
        numbers |= noise(course, numbers["end_excess"])
        numbers |= recent(course, base, start)
        numbers |= swings(course, base)
        numbers |= growth(course, base, start)
    return {name: float(value) for name, value in numbers.items()}


def level(course: Course, floor: float | None, start: float | None = None) -> dict[str, float]:
    """Where the loss stands: start, end, best, and each above the floor.

    Args:
      course: of the loss.
      floor: the lowest possible value, or None: then the limit that the present pace leads to
        stands in for it (`limit_of`).
      start: another loss's first value, believed when it is higher within a factor of 8.

    Returns:
      `first`, `end`, `best`, `best_at` (share of the run), `floor` (NaN where none is known),
      `base` (what excess is counted from), `start_excess`, `end_excess`, `height` (end over
      start excess), `above_best` (end above the best level, over the start's excess) and `gain`
      (the way from the start to the end over the start itself).
    """
    y = course.y
    # A noisy first point may lie low: the median of the first five tells.
    first = max(course.first, float(np.median(y[:5])) if course.stride == 1 else float(y[0]))
    if start is not None and first < start <= EARLIER * abs(first):
        first = start
    end = robust.middle_mean(y[tail(course, 0.1, 5)])
    smooth = robust.smoothed(y, max(1, min(len(y) // 4, max(5, len(y) // 10))))
    best = float(min(smooth.min(), end))
    base = limit_of(course, best) if floor is None else floor
    start_excess = max(first - base, 0.0)
    scale = start_excess if start_excess > 0 else 1.0
    return {
        "first": first,
        "end": end,
        "best": best,
        "best_at": float((np.argmin(smooth) + 1) / len(smooth)),
        "floor": float("nan") if floor is None else float(floor),
        "base": base,
        "start_excess": start_excess,
        "end_excess": end - base,
        "height": (end - base) / scale,
        "above_best": (end - best) / scale,
        "gain": (first - end) / abs(first) if first else 0.0,
    }


def limit_of(course: Course, best: float) -> float:
    """Where a falling curve is going, if it goes on as it does: its floor when none is known.

    The falls of the last two quarters make a geometric series (Aitken's extrapolation); a fall
    that noise could explain counts for nothing, and then the best level is the limit. A curve
    that was never negative is not expected to become so.
    """
    y, m = course.y, len(course.y)
    width = max(3, m // 10)
    if m < 2 * width + 4:
        return best
    ends = (m - m // 2, m - m // 4, m)
    levels = [float(np.median(y[max(e - width, 0) : e])) for e in ends]
    before, now = levels[0] - levels[1], levels[1] - levels[2]
    part = stretch(course, 0.5)
    rough = np.sqrt(part.step2 / 2 / course.stride) if part else 0.0
    if now <= 3 * rough * np.sqrt(2 / width):
        return best
    ratio = min(now / before, SLOWEST) if before > now else SLOWEST
    limit = levels[2] - now * ratio / (1 - ratio)
    lowest = 0.0 if float(course.low.min()) >= 0 else -np.inf
    return min(max(limit, lowest), best)


def noise(course: Course, end_excess: float) -> dict[str, float]:
    """How rough the last half is, from differences at the resolution of points.

    Returns:
      `noise`: standard deviation of a point about its neighbours (root of half the mean squared
      step); `noise_share`: that over the end's excess; `von_neumann`: mean squared step over
      the variance, 2 for noise, near 0 for a smooth curve, 4 for an alternation;
      `turning_rate`: share of points at which the series turns (2/3 for noise, 1 for an
      alternation, 2/period for a wave); `memory`: autocorrelation of neighbours, and
      `memory_surprise`: that in standard errors; `change`: from the first to the last
      third, and `change_by_noise`: what noise alone would do, at three standard errors.
    """
    part, half = stretch(course, 0.5), tail(course, 0.5)
    turning = float(course.turns[half].sum() / course.n[half].sum())
    third = max(1, len(course.y) // 3)
    change = abs(float(course.y[:third].mean() - course.y[-third:].mean()))
    rough = float(np.sqrt(part.step2 / 2)) if part else 0.0
    ratio = von_neumann(part) if part else 2.0
    return {
        "noise": rough,
        "noise_share": rough / end_excess if end_excess > 0 else float("inf"),
        "von_neumann": ratio,
        "turning_rate": turning,
        "memory": 1 - ratio / 2,
        "memory_surprise": (1 - ratio / 2) * float(np.sqrt(course.n[half].sum())),
        "change": change,
        "change_by_noise": 3 * rough * float(np.sqrt(2 / (third * course.stride))),
    }


def recent(course: Course, base: float, start_excess: float) -> dict[str, float]:
    """The trend of the last quarter.

    Returns:
      `slope`, `slope_low`, `slope_high`: the loss's, a point, with its 99 % interval; `fall`,
      `fall_low`, `fall_high`: the share of the excess that a quarter of the run takes off at the
      present pace, on the log scale where the excess allows it; `fall_of_means`: of the mean
      excess from the third quarter to the last, which swings do not fool; `fall_of_half`,
      `fall_low_of_half`: with the pace of the last half, which sees through more noise.
    """
    quarter = course.points / 4
    part, half = tail(course, 0.25), tail(course, 0.5)
    excess = course.y - base
    line = robust.trend(course.t[part], excess[part])
    falls = _falls(course.t[part], excess[part], quarter, TINY * start_excess)
    longer = _falls(course.t[half], excess[half], quarter, TINY * start_excess)
    m = len(course.y)
    third, last = course.y[m // 2 : -(m // 4) or m], course.y[-max(m // 4, 1) :]
    before = float(np.mean(third)) - base
    return {
        "slope": line.slope,
        "slope_low": line.low,
        "slope_high": line.high,
        "fall_low": falls[0],
        "fall": falls[1],
        "fall_high": falls[2],
        "fall_low_of_half": longer[0],
        "fall_of_half": longer[1],
        "fall_of_means": 1 - (float(np.mean(last)) - base) / before if before > 0 else 0.0,
    }


def _falls(t: np.ndarray, excess: np.ndarray, quarter: float, tiny: float) -> list[float]:
    """Share of the excess lost a quarter: least, likely, most."""
    if excess.min() > tiny:
        log = robust.trend(t, np.log(excess))
        return [
            float(1 - np.exp(np.clip(s * quarter, -50, 50))) for s in (log.high, log.slope, log.low)
        ]
    line = robust.trend(t, excess)
    scale = max(float(np.median(excess)) - line.slope * quarter / 2, tiny, 1e-300)
    return [
        float(np.clip(-s * quarter / scale, -1e9, 1)) for s in (line.high, line.slope, line.low)
    ]


def growth(course: Course, base: float, start_excess: float) -> dict[str, float]:
    """Whether the loss grows: of the last third, and of the upper envelope of the whole.

    Args:
      course: of the loss.
      base: what excess is counted from.
      start_excess: the first point's.

    Returns:
      `growth` (of log excess a point) with `growth_low`; `rise` (the end's level over the
      lowest level before it); `earlier_rise` (the largest such rise that came down again);
      `envelope` (greatest excess of the last sixth over that of the sixth before);
      `envelope_before` (the same, one sixth earlier); `top` (greatest excess of the last sixth
      over the start's).
    """
    least = max(TINY * start_excess, 1e-300)
    if course.y.min() - base < -least:  # noise about the floor has no logarithm
        steps = course.steps[len(course.y) // 2 :] / course.n[len(course.y) // 2 :]
        usual = float(np.median(np.sqrt(steps))) / 10
        least = max(least, usual) if np.isfinite(usual) else least
    y = np.maximum(course.y - base, least)
    scale = start_excess if start_excess > 0 else max(abs(course.first), least)
    part = tail(course, 1 / 3)
    low = np.flatnonzero(y <= least)
    if low.size and len(y) - 1 - low[-1] >= FEWEST:  # what has left the floor for good
        part = slice(max(part.start, int(low[-1]) + 1), len(y))
    line = robust.trend(course.t[part], np.log(y[part]))
    smooth = robust.smoothed(y, max(1, len(y) // 20))
    ends = smooth[-max(1, len(smooth) // 20) :]
    m, sixth = len(y), max(3, len(y) // 6)
    cuts = [max(m - sixth * k, 0) for k in (3, 2, 1, 0)]
    pieces = [course.high[a:b] - base for a, b in itertools.pairwise(cuts)]
    tops = [max(float(v.max()), least) if v.size else 0.0 for v in pieces]
    return {
        "growth": line.slope,
        "growth_low": line.low,
        "rise": float(np.median(ends) / smooth[len(smooth) // 20 :].min()),
        "earlier_rise": _earlier_rise(smooth),
        "envelope": tops[2] / tops[1] if tops[1] > 0 else 1.0,
        "envelope_before": tops[1] / tops[0] if tops[0] > 0 else 1.0,
        "top": tops[2] / scale,
    }


def _earlier_rise(smooth: np.ndarray) -> float:
    """The largest factor by which a curve rose and then lost two thirds of the rise again."""
    best, top, under = 1.0, smooth[0], smooth[0]
    for v in smooth:
        if v > top:
            top = v
        elif v < top - (top - under) * 2 / 3 and top > under:
            best, top, under = max(best, float(top / under)), v, v
        if v < under:
            top, under = v, v
    return best
