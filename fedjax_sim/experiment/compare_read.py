"""What `compare` reads: run folders, folders of runs, sweep folders, runs and records in memory.

Only reads: a folder that cannot be written is as good as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import files
from fedjax_sim.experiment.compare_groups import Named, grouped
from fedjax_sim.experiment.compare_source import (
    Source,
    is_run,
    of_folder,
    of_records,
    of_run,
    run_name,
)
from fedjax_sim.experiment.compare_sweeps import sweep_folder, sweep_groups


def read(given: Any, position: int) -> tuple[list[Named], list[str]]:
    """The contestants that one argument of `compare` names, and notes on them.

    Args:
      given: a path, a `Run`, a `Sweep`, records, or a list of runs, record lists or run folders.
      position: of the argument, from 1, for names and messages.

    Raises:
      InputError: naming what is missing.
    """
    if isinstance(given, (str, Path)):
        return _folder(Path(given))
    if hasattr(given, "curves") and hasattr(given, "varied"):
        name = f"sweep {position}" if given.out is None else given.out.name
        facts = {n: given.summary.get(n) for n in ("algorithm", "federation")}
        return sweep_groups(name, given.records, given.curves, given.varied, facts), []
    if hasattr(given, "records") and hasattr(given, "summary"):
        source = of_run(given)
        return [Named(run_name(given), (source,))], []
    if isinstance(given, Sequence) and given:
        return _listed(given, position)
    remedy = "must be a folder, a Run, a Sweep, records, or a list of such runs"
    raise InputError(f"contestant {position}", type(given).__name__, remedy)


def _listed(given: Sequence[Any], position: int) -> tuple[list[Named], list[str]]:
    """Records of one run, or several runs that differ in their seed."""
    field = f"contestant {position}"
    if isinstance(given[0], Mapping):
        source = of_records(given, 0, field)
        return [Named(field, (source,))], []
    sources: list[Source] = []
    name = ""
    for i, item in enumerate(given):
        if isinstance(item, (str, Path)):
            sources.append(of_folder(Path(item)))
            name = name or Path(item).name
        elif hasattr(item, "records") and hasattr(item, "summary"):
            sources.append(of_run(item))
            name = name or run_name(item)
        elif isinstance(item, Sequence) and item and isinstance(item[0], Mapping):
            sources.append(of_records(item, i, f"{field}, run {i + 1}"))
        else:
            remedy = "must be a Run, records, or a run folder"
            raise InputError(f"{field}, run {i + 1}", type(item).__name__, remedy)
    seeds = [s.seed for s in sources]
    if len(set(seeds)) < len(seeds):
        remedy = "must be of distinct seeds: its runs count as repetitions of one setting"
        raise InputError(field, f"seeds {seeds}", remedy)
    sources.sort(key=lambda s: s.seed)
    return [Named(name or field, tuple(sources))], []


def _folder(out: Path) -> tuple[list[Named], list[str]]:
    if not out.exists():
        raise InputError("folder", str(out), "there is no such folder; give that of a run or sweep")
    if not out.is_dir():
        raise InputError("folder", str(out), "must be the folder of a run or sweep, and is a file")
    name = out.resolve().name
    if (out / files.SWEEP).is_file():
        return sweep_folder(out, name)
    if is_run(out):
        return [Named(name, (of_folder(out),))], []
    inside = sorted(p for p in out.iterdir() if p.is_dir() and is_run(p))
    if not inside:
        remedy = (
            f"holds no run: there is no {files.METRICS} or {files.SWEEP} in it, and no folder "
            "of a run"
        )
        raise InputError("folder", str(out), remedy)
    begun = [p for p in inside if _lines(p)]
    notes = [f"{p} holds no round yet and is left out" for p in inside if p not in begun]
    if not begun:
        raise InputError("folder", str(out), "holds no run that has done a round")
    groups, more = grouped([of_folder(p) for p in begun], name)
    return groups, notes + more


def _lines(out: Path) -> bool:
    path = out / files.METRICS
    return path.is_file() and b"\n" in path.read_bytes()
