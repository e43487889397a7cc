"""Sweeps as `compare` sees them: every setting a contestant, its seeds the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import files
from fedjax_sim.experiment.compare_groups import Named, label
from fedjax_sim.experiment.compare_source import Source, ending
from fedjax_sim.experiment.sweep_folder import CURVES, PARTS, RUNS, merged, read_sweep


def sweep_folder(out: Path, name: str) -> tuple[list[Named], list[str]]:
    """The settings of a sweep, also of one that was cut off."""
    toml, summary = read_sweep(out), files.read_json(out / files.SUMMARY) or {}
    raw = (out / RUNS).read_bytes() if (out / RUNS).is_file() else b""
    try:
        lines = raw[: raw.rfind(b"\n") + 1].splitlines()
        by_run = {record["run"]: record for record in map(json.loads, lines)}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(RUNS, str(out / RUNS), f"holds a damaged line: {error}") from error
    if not by_run:
        raise InputError("folder", str(out), "holds no finished run yet; go on with resume")
    records = [by_run[i] for i in sorted(by_run)]
    whole = [out / CURVES] if (out / CURVES).is_file() else sorted((out / PARTS).glob("*.npz"))
    parts = [_arrays(path) for path in whole]
    # The curves of a wave are written before its records: they may hold runs that are not yet told.
    last = max(max(by_run), *(int(part["run"].max()) for part in parts), 0)
    curves = merged(parts, last + 1)
    algorithm, data = _named_in(toml)
    facts = {
        "algorithm": summary.get("algorithm", algorithm),
        "federation": summary.get("federation", data),
    }
    groups = sweep_groups(name, records, curves, list(toml.get("vary", {})), facts)
    for i, group in enumerate(groups):
        groups[i] = group._replace(sources=tuple(_with_config(s, toml) for s in group.sources))
    left = [] if summary else [f"{out} is unfinished: {len(records)} of its runs are there"]
    return groups, left


def _named_in(toml: Mapping[str, Any]) -> tuple[Any, Any]:
    """Algorithm and data of a `sweep.toml`, as far as it says."""
    experiment = (toml.get("group") or [{}])[0].get("experiment", {})
    algorithm = experiment.get("algorithm", toml.get("algorithm", {}))
    return algorithm.get("name"), experiment.get("data", {}).get("name")


def _with_config(source: Source, toml: Mapping[str, Any]) -> Source:
    """With the resolved experiment of its setting."""
    for group in toml.get("group", []):
        if source.facts["setting"] in group.get("settings", []) and "experiment" in group:
            return source._replace(facts=source.facts | {"config": group["experiment"]})
    return source


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise InputError(CURVES, str(path), f"is damaged: {error}") from error


def sweep_groups(
    name: str,
    records: Sequence[Mapping[str, Any]],
    curves: Mapping[str, np.ndarray],
    varied: Sequence[str],
    facts: Mapping[str, Any],
) -> list[Named]:
    """One contestant a setting, named by its varied values.

    Args:
      name: of the sweep.
      records: one a run, as in `runs.jsonl`.
      curves: `{name: [runs, R]}`.
      varied: the names that were varied.
      facts: what is known of all runs.
    """
    settings: dict[int, list[Mapping[str, Any]]] = {}
    for record in records:
        settings.setdefault(record["setting"], []).append(record)
    groups: list[Named] = []
    for setting, runs in sorted(settings.items()):
        sources = [_of_sweep(name, r, curves, {**facts, "setting": setting}) for r in runs]
        values = {n: runs[0].get(n) for n in varied}
        own = label(values) if values and len(settings) > 1 else name
        groups.append(Named(own, tuple(sorted(sources, key=lambda s: s.seed)), name))
    return groups


def _of_sweep(
    name: str,
    record: Mapping[str, Any],
    curves: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
) -> Source:
    i, rounds = record["run"], record["rounds"]
    columns = {n: np.asarray(v[i, :rounds], float) for n, v in curves.items()}
    where, ended = f"{name}, run {i}", ending(record["status"])
    return Source(record["seed"], columns, rounds, ended, where, dict(facts))
