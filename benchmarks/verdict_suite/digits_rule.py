"""The truth of a digits run, from its own later course.

Where nothing is random (`random=False`), the common rule judges the exact objective against the
reference level (F* of the ridge, or the best level that any run of the task reaches), and its
verdict stands only if the run's later course bears it out. Every run goes on for three times the
rounds shown (at the half: of the half):
- `converged`: the later excess never exceeds 6 % of the start;
- `converging`: at 3R it is at most 80 % of that at R;
- `stagnating`: it never falls below 70 % of that at R;
- `oscillating`: the rounds R to 3R still swing (size >= 0.3, damping < 4), and the second half of
  what is shown repeats itself (an autocorrelation above 0.5 at some lag of 2 to 16): no chaos;
- `diverging`: not finite, or at 3R above 100 times what it is at R and the start.

Where batches or cohorts are random, the excess is a path with noise, and what is compared are its
means over the third quarter (m1) and the last (m2) of what is shown, over R..2R (l1) and 2R..3R
(l2). The standard error s of m2 - m1 comes from the scatter around a running mean in the second
half. Left out is whatever fits none of these:
- fewer than 10 records, the last not above 1.05 times the start: `too early to say`;
- a number that is not finite while shown: `diverging`; only later: left out;
- up to 30 records whose training loss changes between its halves by less than 0.7 standard errors
  of its scatter: `too early to say`, unless the excess is above 1.2 times the start; by less than
  4, and up to 40 records: left out;
- structured scatter: an autocorrelation over R/2..3R below -0.5 at lag 1 or above 0.5 at lags 2 to
  10 while the scatter exceeds 10 % of the level: left out, as swings and noise mix there;
- m2 <= 0.85 m1 by more than 4 s, l1 <= 0.8 m2, m2 >= 1.5 % of the start: `converging`;
- m2 below 1e-3 of the start, and l1 and l2 too: `converged`;
- flat: |m2 - m1| <= 5 % of m1, or 2 s but no more than 20 %; l1 and l2 within 15 % of the level
  (m2 + l1)/2, or 2 s but no more than 25 %. Flat below 4 % of the start (m2, l1 and l2, at least
  20 records): `converged`; flat between 18 % and 120 % (at least 36 records, the first round still
  shows half of the start, and the scatter is no more than 30 % of the level, or swings would be
  as fair a word): `stagnating`.
"""

from __future__ import annotations

import numpy as np

from verdict_suite import rules
from verdict_suite.rules import Course

LATER = 3  # how much longer than shown every run goes on


def judged(e: np.ndarray, seen: np.ndarray, start: float, shown: int) -> str | None:
    """The truth of a run with randomness.

    Args:
      e: `[3 shown]`, its excess after each round.
      seen: its training loss, at least `[shown]`.
      start: excess before round 1.
      shown: records seen.
    """
    if shown < rules.FEWEST:
        fine = np.isfinite(e[:shown]).all() and e[shown - 1] <= 1.05 * start
        return rules.EARLY if fine else None
    if not np.isfinite(e).all():
        return None
    early = _hidden(seen[:shown], shown)
    if early != "visible":
        return early if np.mean(e[:shown]) <= 1.2 * start else None
    half, three, twice = shown // 2, 3 * shown // 4, 2 * shown
    m1, m2, l1, l2 = (
        float(np.mean(e[a:b]))
        for a, b in ((half, three), (three, shown), (shown, twice), (twice, LATER * shown))
    )
    scatter = (e - smoothed(e, shown))[half:]
    error = float(np.std(scatter[: shown - half])) * np.sqrt(2 / (shown - three))
    if np.std(scatter) > 0.1 * abs(m2) and _structured(scatter):
        return None
    if m1 - m2 > max(0.15 * m1, 4 * error) and l1 <= 0.8 * m2 and m2 >= 0.015 * start:
        return rules.CONVERGING
    if max(m2, l1, l2) < 1e-3 * start:
        return rules.CONVERGED
    level = (m2 + l1) / 2
    flat = abs(m2 - m1) <= min(max(0.05 * m1, 2 * error), 0.2 * m1)
    near = min(max(0.15 * level, 2 * error), 0.25 * level)
    if not flat or max(abs(l1 - level), abs(l2 - level)) > near:
        return None
    if max(m2, l1, l2) <= 0.04 * start and shown >= 20:
        return rules.CONVERGED
    high = 0.18 * start <= level <= 1.2 * start and shown > rules.SHORT + 5
    begun = e[0] >= 0.5 * start
    return rules.STAGNATING if high and begun and np.std(scatter) <= 0.3 * level else None


def _hidden(seen: np.ndarray, shown: int) -> str | None:
    """`EARLY`, None (left out), or "visible", by the training loss and its scatter."""
    if shown > rules.SHORT + 10:
        return "visible"
    noise = float(np.std(seen - smoothed(seen, shown)))
    half = shown // 2
    change = abs(float(np.mean(seen[:half]) - np.mean(seen[half:])))
    z = change / max(2 * noise / np.sqrt(shown), 1e-300)
    if z > 4:
        return "visible"
    return rules.EARLY if z < 0.7 and shown <= rules.SHORT else None


def _structured(scatter: np.ndarray) -> bool:
    """Whether the scatter alternates or repeats."""
    lags = _correlations(scatter, 10)
    return lags[0] < -0.5 or max(lags[1:]) > 0.5


def _correlations(x: np.ndarray, most: int) -> list[float]:
    """Autocorrelations of `x [n]` at lags 1 to `most`, each over the pairs that there are."""
    centred = x - x.mean()
    power = float(np.mean(centred**2)) or 1.0
    lags = range(1, min(most, len(x) - 2) + 1)
    return [float(np.mean(centred[k:] * centred[:-k])) / power for k in lags]


def smoothed(e: np.ndarray, shown: int) -> np.ndarray:
    """Centred mean over `max(5, shown / 8)` rounds, shorter at the ends."""
    reach = max(5, shown // 8) // 2
    total = np.concatenate([[0.0], np.cumsum(e)])
    at = np.arange(len(e))
    # The same reach on both sides, or a slope would shift the ends.
    side = np.minimum(np.minimum(at, len(e) - 1 - at), reach)
    return (total[at + side + 1] - total[at - side]) / (2 * side + 1)


def borne_out(e: np.ndarray, start: float, shown: int) -> str | None:
    """The truth of a run without randomness.

    Args:
      e: `[3 shown]`, its excess after each round.
      start: excess before round 1.
      shown: records seen.
    """
    course = Course(e, start, unbounded=_grows(e, shown, start))
    found = rules.verdict_of(course, shown)
    return None if found is None or _not_borne_out(course, found, shown) else found


def _grows(e: np.ndarray, shown: int, start: float) -> bool:
    if not np.isfinite(e).all():
        return True
    return bool(e[-1] > 100 * max(e[shown - 1], start))


def _not_borne_out(course: Course, verdict: str, rounds: int) -> bool:
    """Whether the course after `rounds` contradicts the verdict."""
    e, later = course.excess, course.excess[rounds : LATER * rounds]
    if verdict in (rules.EARLY, rules.DIVERGING) or not len(later):
        return False
    now = float(e[rounds - 1])
    if verdict == rules.CONVERGED:
        return bool(later.max() > 0.06 * course.start)
    if verdict == rules.CONVERGING:
        return bool(later[-max(rounds // 8, 1) :].mean() > 0.8 * now)
    if verdict == rules.STAGNATING:
        return bool(later.min() < 0.7 * now)
    size, damping, turns, _ = rules.swings(later)
    swings_on = turns >= 6 and size >= 0.3 and damping < 4
    return not swings_on or max(_correlations(e[rounds // 2 : rounds], 16)[1:]) < 0.5
