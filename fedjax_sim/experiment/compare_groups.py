"""Runs of one folder, sorted into settings: equal in all but the seed and the plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_sim.experiment.compare_source import Source

# What changes speed, or what is kept, and never a record.
_SPEED_ONLY = {
    "plan": ("lanes", "devices", "chunk"),
    "run": ("seed", "checkpoint_every", "keep_checkpoints"),
}
_OF_DATA = ("federation", "clients")
_MOST_NAMED = 3


class Named(NamedTuple):
    """One contestant: runs that differ in their seed.

    Attributes:
      name: shown.
      sources: its runs, by seed.
      origin: the folder it was found in with others; shown where names are equal without it.
    """

    name: str
    sources: tuple[Source, ...]
    origin: str = ""


def setting_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """`{dotted key: value}` of all that makes a setting.

    Args:
      facts: `config` and, for runs made in Python whose config knows no data, what the summary
        says of the federation.
    """
    config = facts.get("config") or {}
    kept = {
        section: {k: v for k, v in content.items() if k not in _SPEED_ONLY.get(section, ())}
        if isinstance(content, Mapping)
        else content
        for section, content in config.items()
    }
    told = {} if "data" in config else {n: facts.get(n) for n in _OF_DATA}
    return flat(kept) | {n: v for n, v in told.items() if v is not None}


def flat(table: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """A table of tables as dotted keys.

    Example:
      >>> flat({"data": {"partition": {"alpha": 0.3}}})
      {'data.partition.alpha': 0.3}
    """
    out: dict[str, Any] = {}
    for key, value in table.items():
        dotted = f"{under}{key}"
        out |= flat(value, f"{dotted}.") if isinstance(value, Mapping) else {dotted: value}
    return out


def grouped(sources: Sequence[Source], name: str) -> tuple[list[Named], list[str]]:
    """Runs by setting, in the order in which settings first appear, and notes.

    The config of a run made in Python knows its algorithm's name and traced numbers only: runs
    that differ in an optimizer built in as a constant look the same, and belong in folders of
    their own.

    Args:
      sources: in the folder's order.
      name: of the folder: the contestant's where there is one setting.
    """
    groups: dict[str, list[Source]] = {}
    for source in _completed(sources):
        key = json.dumps(setting_of(source.facts), sort_keys=True, default=str)
        groups.setdefault(key, []).append(source)
    notes: list[str] = []
    out: list[Named] = []
    names = _names([group[0] for group in groups.values()], name)
    for own, group in zip(names, groups.values(), strict=True):
        by_seed: dict[int, Source] = {}
        for source in group:
            if source.seed in by_seed:
                same = by_seed[source.seed].where
                notes.append(f"{source.where} repeats seed {source.seed} of {same}: left out")
            else:
                by_seed[source.seed] = source
        out.append(Named(own, tuple(by_seed[s] for s in sorted(by_seed)), name))
    return out, notes


def _completed(sources: Sequence[Source]) -> list[Source]:
    """Sources with the data of an unfinished run, which has no summary, taken from its like."""
    known: dict[str, dict[str, Any]] = {}
    for source in sources:
        told = {n: source.facts[n] for n in _OF_DATA if source.facts.get(n) is not None}
        if len(told) == len(_OF_DATA):
            known.setdefault(_config_key(source), told)
    return [
        s._replace(facts=known.get(_config_key(s), {}) | _without_none(s.facts)) for s in sources
    ]


def _config_key(source: Source) -> str:
    setting = setting_of({"config": source.facts.get("config")})
    return json.dumps(setting, sort_keys=True, default=str)


def _without_none(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in facts.items() if v is not None}


def _names(firsts: Sequence[Source], folder: str) -> list[str]:
    """What tells the settings apart: the folder alone, differing values, or the runs' folders."""
    if len(firsts) == 1:
        return [folder]
    settings = [setting_of(first.facts) for first in firsts]
    # Insertion order of the files, so that names read as the files do.
    keys = list(dict.fromkeys(k for s in settings for k in s))
    differing = [k for k in keys if len({repr(s.get(k)) for s in settings}) > 1]
    names = [label({k: s[k] for k in differing if k in s}) for s in settings]
    if len(differing) <= _MOST_NAMED and len(set(names)) == len(names):
        return names
    return [Path(first.where).name for first in firsts]


def label(values: Mapping[str, Any]) -> str:
    """`learning rate 0.1, epochs 2`; the names of algorithms and data stand for themselves."""
    parts: list[str] = []
    for key, value in values.items():
        *_, last = key.split(".")
        text = f"{value:g}" if isinstance(value, float) else str(value)
        bare = last in ("name", "algorithm", "federation", "optimizer")
        parts.append(text if bare else f"{last.replace('_', ' ')} {text}")
    return ", ".join(parts)


def distinct_names(groups: Sequence[Named]) -> list[str]:
    """Names made distinct: by the folder where that helps, else by a number."""
    names = [g.name for g in groups]
    told = [
        f"{g.origin}: {g.name}"
        if names.count(g.name) > 1 and g.origin not in ("", g.name)
        else g.name
        for g in groups
    ]
    return unique(told)


def unique(names: Sequence[str]) -> list[str]:
    """Names made distinct by a number behind the second and later of a kind.

    Example:
      >>> unique(["a", "b", "a"])
      ['a', 'b', 'a (2)']
    """
    out: list[str] = []
    for name in names:
        number, own = 1, name
        while own in out:
            number += 1
            own = f"{name} ({number})"
        out.append(own)
    return out
