"""One run as `compare` sees it: columns of numbers by round, and how it ended."""

from __future__ import annotations

import numbers
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.diagnostics.targets import DIVERGED, DONE, STOPPED, UNFINISHED, Course
from fedjax_sim.experiment import files
from fedjax_sim.experiment.records import read_records

WALL, VIRTUAL = "wall_time_s", "virtual_time_s"
_BYTES = ("uplink_bytes", "downlink_bytes")
_NOT_METRICS = {"round", "nonfinite", WALL, VIRTUAL, *_BYTES}


def ending(status: str) -> str:
    """How a run of that status in its summary ended; what no one knows was stopped."""
    return status if status in (DONE, DIVERGED) else STOPPED


class Source(NamedTuple):
    """One run as read.

    Attributes:
      seed: of the run.
      columns: `{name: float [R]}`, NaN on rounds where nothing was measured.
      rounds: R, the rounds that ran.
      ended: `done`, `unfinished`, `stopped` or `diverged`.
      where: the run's name in messages.
      facts: what is known of it: `algorithm`, `federation`, `clients`, `verdict`, `config`.
    """

    seed: int
    columns: dict[str, np.ndarray]
    rounds: int
    ended: str
    where: str
    facts: dict[str, Any]

    def metrics(self) -> list[str]:
        """Names with a finite value."""
        found = self.columns.items()
        return [n for n, v in found if n not in _NOT_METRICS and np.isfinite(v).any()]

    def course(self, metric: str, clock: str) -> Course:
        """The rounds on which `metric` was measured, with bytes and seconds up to each.

        Args:
          metric: a name of `columns`, or one that is not there: an empty course.
          clock: the column of seconds.
        """
        nothing = np.full(self.rounds, np.nan)
        values = self.columns.get(metric, nothing)
        at = np.flatnonzero(np.isfinite(values))
        # The counters know every round; a metric only some.
        spent = passed = None
        if all(n in self.columns for n in _BYTES):
            each = np.stack([self.columns[n] for n in _BYTES])
            spent = np.cumsum(np.nan_to_num(each).sum(axis=0))
        if clock in self.columns:
            passed = np.fmax.accumulate(self.columns[clock])
        end = {
            "rounds": float(self.rounds),
            "bytes": None if spent is None else float(spent[-1]),
            "seconds": None if passed is None else float(passed[-1]),
        }
        return Course(
            self.seed,
            at + 1.0,
            values[at],
            None if spent is None else spent[at],
            None if passed is None else passed[at],
            end,
            self.ended,
        )


def of_run(run: Any) -> Source:
    """A `Run` in memory."""
    summary, name = run.summary, run_name(run)
    if not run.records:
        raise InputError("run", name, "holds no round")
    known = ("algorithm", "federation", "clients", "verdict")
    facts = {n: summary[n] for n in known if n in summary}
    columns, ended = columns_of(run.records), ending(run.status)
    return Source(summary["seed"], columns, len(run.records), ended, name, facts)


def run_name(run: Any) -> str:
    """A run's folder, or its algorithm."""
    return run.out.name if run.out is not None else str(run.summary.get("algorithm", "run"))


def of_records(records: Sequence[Any], seed: int, field: str) -> Source:
    """Records as in `metrics.jsonl`, taken as a whole run.

    Raises:
      InputError: one that is not of its round.
    """
    for i, record in enumerate(records):
        if not isinstance(record, Mapping) or record.get("round") != i + 1:
            raise InputError(field, record, f"must be records as in {files.METRICS}: round {i + 1}")
    return Source(seed, columns_of(records), len(records), DONE, field, {})


def columns_of(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """`{name: float [R]}` of the numbers in records, NaN where one is missing or null."""
    columns: dict[str, np.ndarray] = {}
    for i, record in enumerate(records):
        for name, value in record.items():
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                continue
            if name not in columns:
                columns[name] = np.full(len(records), np.nan)
            columns[name][i] = float(value)
    return columns


def is_run(out: Path) -> bool:
    """Whether a folder is that of a run, begun or not."""
    return (out / files.METRICS).is_file() or (out / files.CONFIG).is_file()


def of_folder(out: Path) -> Source:
    """The run in a folder, finished or not.

    Raises:
      InputError: no run, no round yet, or a damaged file.
    """
    if not is_run(out):
        raise InputError("folder", str(out), f"holds no run: there is no {files.METRICS}")
    records = read_records(out / files.METRICS)
    if not records:
        raise InputError("folder", str(out), "holds no round yet; go on with fedjax-sim resume")
    config, summary = _toml(out / files.CONFIG), files.read_json(out / files.SUMMARY) or {}
    run = config.get("run", {})
    planned, seed = run.get("rounds", len(records)), summary.get("seed", run.get("seed", 0))
    if summary:
        ended = ending(summary.get("status", DONE))
    else:
        ended = DONE if not config or len(records) >= planned else UNFINISHED
    facts: dict[str, Any] = {
        "algorithm": summary.get("algorithm", config.get("algorithm", {}).get("name")),
        "federation": summary.get("federation", config.get("data", {}).get("name")),
        "clients": summary.get("clients"),
        "verdict": summary.get("verdict"),
        "config": config,
    }
    return Source(int(seed), columns_of(records), len(records), ended, str(out), facts)


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(path.name, str(path), f"is damaged: {error}") from error
