"""What the series beside the loss say: lengths of steps, their directions, the test loss."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedjax_sim.diagnostics import robust
from fedjax_sim.diagnostics.course import FEWEST, Course, course_of, tail
from fedjax_sim.diagnostics.evidence import EARLIER
from fedjax_sim.diagnostics.series import Sketch

LENGTHS = ("update_norm", "step_norm", "gradient_norm")
"""Series besides the loss that are lengths, read on a log scale."""
SPREAD = ("client_accuracy_p10", "client_accuracy_p90")
"""Accuracy of the worst and the best tenth of clients."""
DRIFT = "drift_cosine"
"""Mean pairwise cosine of the clients' updates, from the drift panel."""
MUCH = 0.1
"""Share of its own fall by which the test loss must rise again to be called overfitting."""


def beside(sketches: Mapping[str, Sketch], floor: float | None) -> dict[str, float]:
    """Numbers of the other series, where they are there.

    Args:
      sketches: by name, the judged one among them.
      floor: the lowest value that the losses can have, or None.

    Returns:
      `rounds` (points of the longest series). For each of `LENGTHS`: `NAME` (level of the last
      quarter), `NAME_ratio` (that over the mean of the first tenth), `NAME_growth`
      (logarithmic, over a quarter of the run) and `NAME_growth_low`. `step_cosine` (mean of the
      last half); `broken`, 1, where a length is no longer finite; `client_spread` (accuracy of
      the best tenth of clients less that of the worst) and `drift_cosine` (mean cosine of the
      clients' updates), over the last quarter; those of `against_test`.
    """
    out = {"rounds": float(max(s.seen for s in sketches.values()))}
    for length in LENGTHS:
        if length in sketches:
            out |= _length(course_of(sketches[length]), length)
            out |= {"broken": 1.0} if sketches[length].broken else {}
    ends = {n: _end(sketches[n]) for n in (*SPREAD, DRIFT) if n in sketches and sketches[n].seen}
    if SPREAD[0] in ends and SPREAD[1] in ends:
        out["client_spread"] = ends[SPREAD[1]] - ends[SPREAD[0]]
    if DRIFT in ends:
        out[DRIFT] = ends[DRIFT]
    if "step_cosine" in sketches and sketches["step_cosine"].seen:
        course = course_of(sketches["step_cosine"])
        out["step_cosine"] = float(course.y[tail(course, 0.5, 4)].mean())
    if "train_loss" in sketches and "test_loss" in sketches:
        train, test = (course_of(sketches[n]) for n in ("train_loss", "test_loss"))
        out |= against_test(train, test, floor)
    return out


def _end(sketch: Sketch) -> float:
    course = course_of(sketch)
    return robust.middle_mean(course.y[tail(course, 0.25, 4)])


def _length(course: Course, name: str) -> dict[str, float]:
    if not len(course.y):
        return {}
    now = robust.middle_mean(course.y[tail(course, 0.25, 4)])
    then = float(np.mean(course.y[: max(1, len(course.y) // 10)]))
    part = tail(course, 0.25)
    out = {name: now, f"{name}_ratio": now / then if then else float("nan")}
    if np.all(course.y[part] > 0):
        line = robust.trend(course.t[part], np.log(course.y[part]))
        quarter = course.points / 4
        out |= {f"{name}_growth": line.slope * quarter, f"{name}_growth_low": line.low * quarter}
    return out


def against_test(train: Course, test: Course, floor: float | None) -> dict[str, float]:
    """What the test loss, also where it was measured seldom, says of the train loss's course.

    Args:
      train: the train loss.
      test: the test loss.
      floor: the lowest value that either can have, or None.

    Returns:
      `test_gap` (test less train loss at the end); `test_rise` (test loss at the end above its
      best level, over the fall from its start to the best); `overfit` (1 where that is more than
      a tenth and the train loss fell beyond noise since); `test_height` (test excess at the end
      over that at its start; NaN where no floor is known); `test_fall` (share of it that the
      last quarter took off); nothing for fewer than 4 points.
    """
    m = len(test.y)
    if m < 4 or len(train.y) < FEWEST:
        return {}
    k = max(1, m // 6)
    end, before = (float(np.mean(test.y[e - k : e])) for e in (m, max(m - m // 4, k)))
    smooth = robust.smoothed(test.y, max(1, m // 10))
    at = int(np.argmin(smooth))
    fall = float(test.y[0] - smooth[at])
    rise = max(end - float(smooth[at]), 0.0) / fall if fall > 0 else 0.0
    since = int(len(train.y) * at / m)
    line = robust.trend(train.t[since:], train.y[since:])
    start = max(float(test.y[0]), min(train.first, EARLIER * abs(float(test.y[0]))))
    base = float("nan") if floor is None else floor
    return {
        "test_gap": end - robust.middle_mean(train.y[tail(train, 0.1, 4)]),
        "test_rise": rise,
        "overfit": float(rise > MUCH and line.high < 0),
        "test_height": (end - base) / (start - base) if start != base else 0.0,
        "test_fall": (before - end) / (before - base) if before != base else 0.0,
    }
