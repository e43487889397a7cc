"""Contestants against a baseline: faster, better, steadier, feasible at all.

Each contestant is a set of runs that differ in their seed. Times to the target are restricted
means: where a run never reached it, the comparison stops at the shortest such run, and
everything later counts as that much. So no run that failed ever counts as reaching.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_sim.diagnostics import paired
from fedjax_sim.diagnostics.paired import Interval
from fedjax_sim.diagnostics.targets import (
    DIVERGED,
    DONE,
    UNFINISHED,
    Course,
    best_level,
    end_level,
    reached_at,
    steadiness,
)

RATIO, DIFFERENCE = "ratio", "difference"
FASTER, BETTER, STEADIER, FEASIBLE = "faster", "better", "steadier", "feasible"
_AXES = ("rounds", "bytes", "seconds")
_NOT_KNOWN = "not known"
Values = dict[int, float]


class Contestant(NamedTuple):
    """What is compared.

    Attributes:
      name: shown.
      courses: one a seed, seeds distinct.
    """

    name: str
    courses: tuple[Course, ...]


class Effect(NamedTuple):
    """One measure of one contestant against the baseline.

    Attributes:
      effect: `faster`, `better`, `steadier` or `feasible`.
      measure: `rounds`, `bytes`, `seconds`, `end`, `largest_drop`, `spread` or `share`.
      contestant: its name.
      own: the measure over its seeds: geometric mean where `kind` is `ratio`, else the
        arithmetic one, or the share.
      bound: runs never reached the target, so that `own.value` is a lower bound.
      kind: how it is set against the baseline, `ratio` or `difference`.
      against: that ratio or difference with its limits.
      word: `better`, `worse`, `no difference shown` or `cannot say`.
      why: what stands behind `cannot say`, or "".
    """

    effect: str
    measure: str
    contestant: str
    own: Interval
    bound: bool
    kind: str
    against: Interval
    word: str
    why: str


class Times(NamedTuple):
    """Rounds, bytes or seconds to the target of all contestants.

    Attributes:
      values: `{seed: amount}` a contestant, at most `horizon`; runs whose end is not known
        are left out.
      reached: `{seed: bool}`, whether it was met within the horizon.
      horizon: where the comparison stops; infinity where every run reached the target.
    """

    values: tuple[Values, ...]
    reached: tuple[dict[int, bool], ...]
    horizon: float


class Outcome(NamedTuple):
    """What a comparison found.

    Attributes:
      rows: one dict a contestant, all statistics.
      effects: every measure of every contestant, the baseline's first within a measure.
      horizon: rounds up to which a target counts as reached; infinity where all reached it.
    """

    rows: tuple[dict[str, Any], ...]
    effects: tuple[Effect, ...]
    horizon: float


def compare(
    contestants: Sequence[Contestant], target: float, sign: int, *, level: float = 0.95
) -> Outcome:
    """Set contestants against the first of them.

    Ratios are of geometric means, their limits from a t interval on paired log ratios;
    differences are of means, from a t interval on paired differences; shares have Wilson's and
    Newcombe's. Limits are for one comparison each: they are not widened for many contestants.

    Args:
      contestants: the first is the baseline.
      target: in the metric's units.
      sign: 1 where more of the metric is better, -1 where less is.
      level: of confidence.

    Cost: O(runs * measurements).
    """
    times = {axis: _times(contestants, axis, target, sign) for axis in _AXES}
    effects: list[Effect] = []
    for axis, found in times.items():
        if found is not None:
            effects += _effects(contestants, FASTER, axis, found.values, -1, level, found)
    for effect, measure, better, of in _statistics(sign):
        values = [_by_seed(c, of) for c in contestants]
        effects += _effects(contestants, effect, measure, values, better, level)
    rounds = times["rounds"]
    assert rounds is not None
    effects += _shares(contestants, rounds, level)
    rows = tuple(_row(c, i, times, effects, sign) for i, c in enumerate(contestants))
    return Outcome(rows, tuple(effects), rounds.horizon)


Statistic = tuple[str, str, int, Callable[[Course], float]]


def _statistics(sign: int) -> tuple[Statistic, ...]:
    return (
        (BETTER, "end", sign, lambda c: end_level(c.values)),
        (STEADIER, "largest_drop", -1, lambda c: steadiness(c.values, sign).largest_drop),
        (STEADIER, "spread", -1, lambda c: steadiness(c.values, sign).spread),
    )


def _by_seed(contestant: Contestant, of: Callable[[Course], float]) -> Values:
    """A statistic of the runs that did not diverge."""
    found = {c.seed: of(c) for c in contestant.courses if c.ended != DIVERGED}
    return {seed: value for seed, value in sorted(found.items()) if math.isfinite(value)}


def _times(contestants: Sequence[Contestant], axis: str, target: float, sign: int) -> Times | None:
    """Amounts to the target; None where a contestant has no such axis."""
    courses = [c for contestant in contestants for c in contestant.courses]
    if any(c.end[axis] is None or c.axis(axis) is None for c in courses):
        return None
    raw = [{c.seed: reached_at(c, axis, target, sign) for c in x.courses} for x in contestants]
    missed = [
        c
        for x, r in zip(contestants, raw, strict=True)
        for c in x.courses
        if not math.isfinite(r[c.seed])
    ]
    # A run that gave up or diverged never reaches: it limits what is known of others not at all.
    whole = [float(c.end[axis] or 0.0) for c in missed if c.ended == DONE]
    horizon = min(whole, default=math.inf)
    if not whole and any(c.ended != UNFINISHED for c in missed):
        horizon = max(float(c.end[axis] or 0.0) for c in courses)
    values: list[Values] = []
    reached: list[dict[int, bool]] = []
    for contestant, amounts in zip(contestants, raw, strict=True):
        known = {
            c.seed
            for c in contestant.courses
            if math.isfinite(amounts[c.seed])
            or c.ended != UNFINISHED
            or float(c.end[axis] or 0.0) >= horizon
        }
        values.append({s: min(amounts[s], horizon) for s in sorted(known)})
        reached.append({s: amounts[s] <= horizon and math.isfinite(amounts[s]) for s in values[-1]})
    return Times(tuple(values), tuple(reached), horizon)


def _effects(
    contestants: Sequence[Contestant],
    effect: str,
    measure: str,
    values: Sequence[Values],
    better: int,
    level: float,
    times: Times | None = None,
) -> list[Effect]:
    """One measure of every contestant, set against the first's."""
    everything = [v for found in values for v in found.values()]
    plain = (measure == "end" and better > 0) or measure == "largest_drop"
    kind = DIFFERENCE if plain or not all(v > 0 for v in everything) else RATIO
    scaled = [{s: math.log(v) if kind == RATIO else v for s, v in f.items()} for f in values]
    out: list[Effect] = []
    for i, contestant in enumerate(contestants):
        against = paired.difference(scaled[0], scaled[i], level, base=i == 0)
        own = paired.mean_interval(np.array(list(scaled[i].values())), level)
        word, why = paired.word_for(against, better), ""
        hit = [True] if times is None else [any(times.reached[j].values()) for j in (0, i)]
        if not any(hit):
            word, why = paired.UNKNOWN, "neither reaches the target"
        elif word == paired.UNKNOWN:
            why = _why(values[0], values[i], against)
            if why == _NOT_KNOWN and effect != FASTER:
                why = _lacking(contestants[0] if not values[0] else contestant, effect)
        bound = times is not None and not all(times.reached[i].values())
        if kind == RATIO:
            own, against = _raised(own), _raised(against)
        out.append(Effect(effect, measure, contestant.name, own, bound, kind, against, word, why))
    return out


def _raised(found: Interval) -> Interval:
    """From logarithms back."""
    value, low, high = (math.exp(min(v, 700.0)) for v in found[:3])
    return found._replace(value=value, low=low, high=high)


def _why(base: Mapping[int, Any], own: Mapping[int, Any], against: Interval) -> str:
    return "one seed" if own and base and against.n == 1 else _NOT_KNOWN


def _lacking(contestant: Contestant, effect: str) -> str:
    """Why a contestant has no end level, or no steadiness."""
    if all(c.ended == DIVERGED for c in contestant.courses):
        return "all diverged"
    return "too few evaluations" if effect == STEADIER else _NOT_KNOWN


def _shares(contestants: Sequence[Contestant], times: Times, level: float) -> list[Effect]:
    out: list[Effect] = []
    for i, contestant in enumerate(contestants):
        base, own = times.reached[0], times.reached[i]
        against = paired.share_difference(base, own, level, base=i == 0)
        word = paired.word_for(against, 1)
        why = _why(base, own, against) if word == paired.UNKNOWN else ""
        share = paired.wilson(sum(own.values()), len(own), level)
        out.append(
            Effect(FEASIBLE, "share", contestant.name, share, False, DIFFERENCE, against, word, why)
        )
    return out


def _row(
    contestant: Contestant,
    position: int,
    times: Mapping[str, Times | None],
    effects: Sequence[Effect],
    sign: int,
) -> dict[str, Any]:
    """All statistics of one contestant; None where one is not known."""
    courses = contestant.courses
    rounds = times["rounds"]
    assert rounds is not None
    reached = rounds.reached[position]
    row: dict[str, Any] = {
        "name": contestant.name,
        "runs": len(courses),
        "seeds": sorted(c.seed for c in courses),
        "reached": sum(reached.values()),
        "not_reached": len(reached) - sum(reached.values()),
        "unknown": len(courses) - len(reached),
        "diverged": sum(c.ended == DIVERGED for c in courses),
    }
    own = [e for e in effects if e.contestant == contestant.name]
    for e in own:
        row |= {e.measure: e.own.value, f"{e.measure}_low": e.own.low}
        row |= {f"{e.measure}_high": e.own.high}
        if e.effect == FASTER:
            row[f"{e.measure}_is_bound"] = e.bound
    steady = [steadiness(c.values, sign) for c in courses if c.ended != DIVERGED]
    best = [best_level(c.values, sign) for c in courses if len(c.values)]
    row |= {
        "best": _mean(best),
        "variance": _mean([s.variance for s in steady]),
        "sign_changes": _mean([s.sign_changes for s in steady]),
    }
    return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in row.items()}


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return float(np.mean(known)) if known else math.nan
