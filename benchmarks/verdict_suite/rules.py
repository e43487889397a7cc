"""The truth rule: what a run's verdict is, from what is known of it beyond its records.

Written before any classifier was run on the suite, and the same for every family. It reads the
COURSE, which the classifier never sees: the excess `e` of the global objective over the lowest
level that the problem allows, round by round, exact or expected (closed form, float64, or the
run's own later rounds); `start`, the excess before round 1; `noise`, by how much a record strays
from its expectation; `unbounded`, whether theory says that the loss grows without end. R records
are seen. A run that lies between two verdicts gets none and is left out.

1. Fewer than 10 records: `too early to say`, unless the excess is above its start (left out).
2. A number that is not finite, or `unbounded` and the last quarter's largest excess at least 1.5
   times the third's and 5 % of the start: `diverging`. `unbounded` and not yet so: left out.
3. Up to 30 records with noise: where the expected change between the two halves is below 0.7
   standard errors of their difference, `too early to say`; between 0.7 and 4, left out; above, on.
   31 to 40 such records: below 4, left out.
4. All of the last quarter below 1e-3 of the start: `converged`.
5. Swings: the turns of `e` in the second half of what is seen. Size against the mean excess there,
   and damping over that half by a line through the logarithms of the sizes. At least 6 turns,
   size >= 0.45 and damping < 2: `oscillating` where the mean is 10 % to 300 % of the start, else
   left out. Size < 0.15, or damping > 5: go on with means over whole swings. Otherwise left out;
   so is a course of 1 to 5 turns whose rises add up to more than 10 % of its mean.
6. Level: e at the end (mean over a swing); fall: its decrease since three quarters of R, as a part.
   - fall >= 20 %, level >= 1.5 % of the start, and the fall is above 4 standard errors of what
     noise alone would do: `converging`;
   - |fall| <= 5 % and level <= 4 %: `converged` (at least 20 records);
   - |fall| <= 5 % and level 18 % to 120 %: `stagnating` (at least 36 records);
   - anything else: left out.
7. `converged` and `stagnating` need a beginning to compare with: the first record must still show
   half of the start's excess; and, with noise, records whose own mean over the last quarter is
   within 15 % of the level or 1.5 % of the start: a typical draw.
"""

from __future__ import annotations

import dataclasses

import numpy as np

CONVERGED, CONVERGING, STAGNATING, OSCILLATING, DIVERGING, EARLY = VERDICTS = (
    "converged", "converging", "stagnating", "oscillating", "diverging", "too early to say",
)  # fmt: skip

FEWEST, SHORT = 10, 30  # records: below the first it is too early; up to the second noise decides


@dataclasses.dataclass(frozen=True)
class Course:
    """What is known of a run beyond its records.

    Attributes:
      excess: `[T]`, T at least the records; expected excess in the rounds of the records.
      start: excess before round 1.
      seen: `[R]`, the excess that the records show; None where that is `excess` itself.
      unbounded: the loss grows without end.
    """

    excess: np.ndarray
    start: float
    seen: np.ndarray | None = None
    unbounded: bool = False

    def noise(self, rounds: int) -> float:
        """Standard deviation of the first `rounds` records around their expectation."""
        if self.seen is None:
            return 0.0
        return float(np.std(self.seen[:rounds] - self.excess[:rounds]))


def verdict_of(course: Course, rounds: int) -> str | None:
    """The truth when `rounds` records are seen, or None where the rule leaves the run out."""
    e = np.asarray(course.excess[:rounds], float)
    if not np.isfinite(e).all():
        return DIVERGING if rounds >= FEWEST else None
    if rounds < FEWEST:
        return EARLY if e[-1] <= 1.05 * course.start else None
    quarter = max(rounds // 4, 1)
    last, third = e[-quarter:].max(), e[-2 * quarter : -quarter].max()
    if course.unbounded:
        grown = last >= max(1.5 * third, 0.05 * course.start)
        return DIVERGING if grown and e[-1] >= e[-quarter] else None
    early = _hidden_by_noise(course, rounds)
    if early != "visible":
        return early
    if last < 1e-3 * course.start:
        return _if_begun(CONVERGED, course, rounds)
    size, damping, turns, width = swings(e[rounds // 2 :])
    if turns >= 6 and size >= 0.45 and damping < 2:
        mean = float(np.mean(e[rounds // 2 :])) / course.start
        return OSCILLATING if 0.1 < mean < 3 else None
    if turns >= 6 and size >= 0.15 and damping <= 5:
        return None
    if 1 <= turns < 6 and _rises(e[rounds // 2 :]) > 0.1:
        return None
    return _by_level(course, rounds, width if turns >= 6 else 1)


def swings(e: np.ndarray) -> tuple[float, float, int, int]:
    """Swings of a course `[T]`: `(size against the mean, damping over T, turns, period)`.

    A turn is where the difference changes its sign by more than rounding; a swing lies between
    two turns.
    """
    step = np.diff(e)
    step[np.abs(step) < 1e-6 * np.mean(np.abs(e))] = 0
    moving = np.flatnonzero(step)
    flips = np.flatnonzero(np.sign(step[moving][1:]) != np.sign(step[moving][:-1]))
    turns = moving[flips + 1]  # rounds at which the course turns
    if len(turns) < 6:
        return 0.0, 1.0, len(turns), 1
    sizes = np.abs(np.diff(e[turns]))
    size = float(np.median(sizes) / np.mean(e))
    slope = np.polyfit(turns[1:], np.log(np.maximum(sizes, 1e-300)), 1)[0]
    width = max(2 * round(float(np.median(np.diff(turns)))), 2)
    return size, float(np.exp(-slope * len(e))), len(turns), width


def _rises(e: np.ndarray) -> float:
    """How much a course goes up in all, against its mean."""
    return float(np.sum(np.maximum(np.diff(e), 0)) / np.mean(e))


def _hidden_by_noise(course: Course, rounds: int) -> str | None:
    """`EARLY`, None (left out), or "visible"."""
    noise = course.noise(rounds)
    if noise == 0 or rounds > SHORT + 10:
        return "visible"
    half = rounds // 2
    e = course.excess
    change = float(np.mean(e[:half]) - np.mean(e[half:rounds]))
    z = abs(change) / (2 * noise / np.sqrt(rounds))
    if z > 4:
        return "visible"
    return EARLY if z < 0.7 and rounds <= SHORT else None


def _by_level(course: Course, rounds: int, width: int) -> str | None:
    e = course.excess
    before = 3 * rounds // 4
    level, earlier = (float(np.mean(e[max(at - width, 0) : at])) for at in (rounds, before))
    if earlier <= 0:
        return None
    fall = 1 - level / earlier
    visible = earlier - level >= 4 * course.noise(rounds) * np.sqrt(8 / rounds)
    if fall >= 0.2 and level >= 0.015 * course.start and visible:
        return CONVERGING
    if abs(fall) > 0.05:
        return None
    if level <= 0.04 * course.start and rounds >= 20:
        return _if_begun(CONVERGED, course, rounds)
    if 0.18 <= level / course.start <= 1.2 and rounds > SHORT + 5:
        return _if_begun(STAGNATING, course, rounds)
    return None


def _if_begun(verdict: str, course: Course, rounds: int) -> str | None:
    """`verdict` where the records show the beginning and are a typical draw."""
    if course.excess[0] < 0.5 * course.start:
        return None
    if course.seen is not None:
        last = slice(rounds - max(rounds // 4, 1), rounds)
        level = float(np.mean(course.excess[last]))
        strays = abs(float(np.mean(course.seen[last])) - level)
        if strays > max(0.15 * level, 0.015 * course.start):
            return None
    return verdict
