"""What a person should know before believing a comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from fedjax_sim.diagnostics.compare import Contestant, Outcome
from fedjax_sim.diagnostics.targets import DIVERGED, STOPPED, UNFINISHED
from fedjax_sim.experiment.compare_groups import Named, flat, setting_of
from fedjax_sim.experiment.compare_source import VIRTUAL

_MOST_NAMED = 4


def notes_on(
    groups: Sequence[Named], curves: Sequence[Contestant], found: Outcome, clock: str
) -> list[str]:
    """Notes in the order of weight: other data, broken runs, other lengths, few seeds.

    Args:
      groups: the contestants as read.
      curves: the same as compared.
      found: the outcome.
      clock: the column behind seconds.
    """
    notes = _data(groups)
    notes += _endings(curves)
    notes += _lengths(curves)
    if math.isfinite(found.horizon):
        notes.append(
            f"not every run reached the target within {found.horizon:g} rounds: those count as "
            "that many, and a mean over them is a lower bound (>)"
        )
    notes += _seeds(groups, curves)
    notes += _missing(curves, found, clock)
    return notes


def _data(groups: Sequence[Named]) -> list[str]:
    """Contestants whose data are not the baseline's."""
    base = groups[0].sources[0].facts
    notes: list[str] = []
    for group in groups[1:]:
        own = group.sources[0].facts
        names = base.get("federation"), own.get("federation")
        if None not in names and names[0] != names[1]:
            notes.append(
                f"different data: {group.name} on {names[1]}, {groups[0].name} on {names[0]}; "
                "what is shown is not due to the method alone"
            )
            continue
        tables = [flat((facts.get("config") or {}).get("data", {})) for facts in (base, own)]
        if all(tables) and tables[0] != tables[1]:
            keys = [k for k in tables[0] | tables[1] if tables[0].get(k) != tables[1].get(k)]
            said = ", ".join(f"data.{k}" for k in keys)
            notes.append(f"different data: {group.name} differs from {groups[0].name} in {said}")
    return notes


_ENDINGS = {
    UNFINISHED: "unfinished, used as far as they go; where the target was not reached yet, "
    "nothing is said of it",
    DIVERGED: "diverged: never reached the target, and left out of end level and steadiness",
    STOPPED: "stopped early: a target not reached by then counts as never reached",
}


def _endings(curves: Sequence[Contestant]) -> list[str]:
    """Runs that did not come to their end, a note for each way."""
    notes: list[str] = []
    for ended, words in _ENDINGS.items():
        counts = [(c, sum(x.ended == ended for x in c.courses)) for c in curves]
        some = [f"{c.name} {n} of {len(c.courses)}" for c, n in counts if n]
        if some:
            notes.append(f"runs {words}: {', '.join(some)}")
    return notes


def _lengths(curves: Sequence[Contestant]) -> list[str]:
    """Contestants that were given different numbers of rounds."""
    longest: dict[str, float] = {}
    for c in curves:
        rounds = [x.end["rounds"] or 0.0 for x in c.courses if x.ended != DIVERGED]
        if rounds:
            longest[c.name] = max(rounds)
    if len(set(longest.values())) < 2:
        return []
    said = ", ".join(f"{name} {rounds:g}" for name, rounds in longest.items())
    if len(longest) > _MOST_NAMED:
        said = f"{min(longest.values()):g} to {max(longest.values()):g}"
    return [f"different numbers of rounds ({said}): each end level is at its own end"]


def _seeds(groups: Sequence[Named], curves: Sequence[Contestant]) -> list[str]:
    """One seed, seeds that are not common, runs that differ in nothing but their seed."""
    seeds = [{c.seed for c in contestant.courses} for contestant in curves]
    notes: list[str] = []
    if all(len(s) == 1 for s in seeds):
        notes.append("one seed each: no interval can be given; several seeds can tell more")
        notes += _same(groups)
    for contestant, own in zip(curves[1:], seeds[1:], strict=True):
        common = own & seeds[0]
        if max(len(own), len(seeds[0])) == 1 or common == own == seeds[0]:
            continue
        if len(common) > 1:
            rest = f"rests on the {len(common)} seeds that it shares with {curves[0].name}"
        elif len(common) == 1 and min(len(own), len(seeds[0])) == 1:
            rest = f"rests on the one seed that it shares with {curves[0].name}"
        else:
            rest = f"is not paired: it shares too few seeds with {curves[0].name}"
        notes.append(f"{contestant.name}: the comparison {rest}")
    return notes


def _same(groups: Sequence[Named]) -> list[str]:
    """Single runs of one setting, which belong together."""
    settings: dict[str, dict[int, str]] = {}
    for group in groups:
        source = group.sources[0]
        if source.facts.get("config"):
            key = json.dumps(setting_of(source.facts), sort_keys=True, default=str)
            settings.setdefault(key, {})[source.seed] = group.name
    return [
        f"{', '.join(by_seed.values())} have the same setting: put them into one folder, and "
        "they count as its seeds"
        for by_seed in settings.values()
        if len(by_seed) > 1
    ]


def _missing(curves: Sequence[Contestant], found: Outcome, clock: str) -> list[str]:
    """Axes that are not compared because one contestant has none."""
    measures = {e.measure for e in found.effects}
    notes: list[str] = []
    for axis in ("bytes", "seconds"):
        without = [c.name for c in curves if any(x.end[axis] is None for x in c.courses)]
        if axis not in measures and len(without) < len(curves):
            notes.append(f"{axis} are not compared: {', '.join(without)} recorded none")
    if "seconds" in measures and clock != VIRTUAL:
        notes.append("seconds are wall time: of equal machines and nothing else running only")
    return notes
