"""The run directory: what is in it, in what order it is written, how it is read back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import PyTree
from fedjax_sim.experiment import checkpoint, files, model_io, run_result
from fedjax_sim.experiment.checkpoint import Position
from fedjax_sim.experiment.identity import identity
from fedjax_sim.experiment.prepare import Prepared
from fedjax_sim.experiment.records import Record, RecordFile, read_records
from fedjax_sim.experiment.settings import AUTO, DEVICE, PROBE, ConfigText, Settings

_PLAN = ("lanes", "devices", "chunk", "client_state")


def config_of(given: ConfigText | None, prepared: Prepared) -> str:
    """Text of `config.toml`; the resolved settings alone where nothing was given."""
    if isinstance(given, str):
        return given
    if given is not None:
        return given(prepared.settings)
    import tomli_w

    resolved = dataclasses.asdict(prepared.settings)
    settings = _without_none(resolved)  # TOML knows no null
    plan = {n: settings.pop(n) for n in _PLAN}
    head = "# Made in Python: task and data are in the script that called run().\n"
    algorithm = {"name": prepared.name, "hyper": {n: float(v) for n, v in prepared.hyper.items()}}
    return head + tomli_w.dumps({"algorithm": algorithm, "run": settings, "plan": plan})


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    kept = {n: v for n, v in table.items() if v is not None}
    return {n: _without_none(v) if isinstance(v, dict) else v for n, v in kept.items()}


class Folder:
    """One run directory, made anew or gone on with.

    Order of writing: `config.toml`; records, and a checkpoint after the records that it
    counts; `final/`, `curves.png`; `summary.json` last, which marks the run as finished.
    """

    def __init__(self, out: Path, *, resume: bool) -> None:
        """Check that the folder can be used; writes nothing."""
        self.out, self._resume = out, resume
        (files.check_used if resume else files.check_free)(out)
        self._identity, self._config = "", ""
        self._metrics: RecordFile | None = None
        self._last: int | None = None
        self._found: tuple[Path, Position] | None = None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end before."""
        return (self.out / files.SUMMARY).is_file()

    @property
    def restores(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self._found is not None

    @property
    def _checkpoints(self) -> Path:
        return self.out / files.CHECKPOINTS

    def with_plan(self, settings: Settings) -> Settings:
        """The settings with the plan that the newest checkpoint was made with."""
        at_hand = checkpoint.complete(self._checkpoints)
        if settings.lanes == PROBE:  # the run was timed when it began, and never is again
            table = tomllib.loads((self.out / files.CONFIG).read_text())
            plan = table.get("plan", {})
            written = {n: plan.get(n, AUTO if n == "client_state" else None) for n in _PLAN}
            settings = dataclasses.replace(settings, **written)
        if not at_hand:
            return settings
        kept = {"client_state": DEVICE} | checkpoint.facts_of(at_hand[-1])["position"]
        for name in _PLAN:
            wanted = getattr(settings, name)
            if wanted not in (None, AUTO, kept[name]):
                remedy = f"this run was made with {kept[name]}, and resume keeps the plan"
                raise InputError(f"plan.{name}", wanted, remedy)
        return dataclasses.replace(settings, **{n: kept[n] for n in _PLAN})

    def identify(self, prepared: Prepared, shapes: PyTree, text: str) -> None:
        """Fix which experiment this is; on resume, find and verify the newest checkpoint."""
        if self._resume:
            text = (self.out / files.CONFIG).read_bytes().decode()
        self._config, self._identity = text, identity(prepared, shapes, text)
        if self._resume:
            self._found = checkpoint.newest(self._checkpoints, self._identity)

    def begin(self) -> None:
        """Make or tidy the folder and open the records."""
        if not self._resume:
            files.make_folder(self.out)
            files.write_whole(self.out / files.CONFIG, self._config)
        checkpoint.clean(self._checkpoints)
        metrics = self.out / files.METRICS
        if self._found is None:
            self._metrics = RecordFile(metrics)
            return
        position = self._found[1]
        read_records(metrics, upto=position.metrics_bytes)
        written = metrics.read_bytes()[: position.metrics_bytes]
        if hashlib.sha256(written).hexdigest() != position.metrics_sha256:
            remedy = "its lines were altered since the checkpoint; restore them"
            raise InputError("metrics.jsonl", str(metrics), remedy)
        self._metrics = RecordFile(metrics, keep=position.metrics_bytes)

    def restore(self, shapes: PyTree) -> tuple[PyTree, Position, list[Record]] | None:
        """State, position and records of the newest checkpoint, or None."""
        if self._found is None:
            return None
        path, position = self._found
        self._last = position.round
        records = read_records(self.out / files.METRICS, upto=position.metrics_bytes)
        return checkpoint.restore(path, shapes), position, records

    def append(self, records: list[Record]) -> None:
        """Add records; durable once a checkpoint counts them, or at the end."""
        assert self._metrics is not None
        self._metrics.append(records)

    def written(self) -> tuple[int, str]:
        """Bytes of records so far and their SHA-256."""
        assert self._metrics is not None
        return self._metrics.size, self._metrics.digest.hexdigest()

    def checkpoint(self, state: PyTree, position: Position, *, keep: int) -> None:
        """Write a checkpoint, unless this round has one."""
        if position.round in (0, self._last):
            return
        assert self._metrics is not None
        self._metrics.sync()
        checkpoint.save(self._checkpoints, state, position, self._identity, keep=keep)
        self._last = position.round

    def finish(self, run: run_result.Run) -> tuple[str, ...]:
        """Write what a finished run leaves; returns notes on what was left out."""
        notes = []
        facts = run_result.model_facts(run.federation, run.summary)
        if run.model is not None:
            model_io.save_model(self.out / files.FINAL, run.model, facts)
        elif run.models is not None:
            model_io.save_groups(self.out / files.FINAL, run.models, facts)
        else:
            notes.append(f"no {files.FINAL}/: {run.summary['algorithm']} shares no model")
        if run.model is not None and "good_rounds" in run.summary:
            good = run.summary["good_rounds"]
            notes.append(f"{files.FINAL}/ holds the last good model, that of round {good:,}")
        draw(self.out, run.records, run.summary)
        _draw_timeline(self.out, run)
        text = json.dumps(_jsonable(run.summary), indent=2, allow_nan=False) + "\n"
        files.write_whole(self.out / files.SUMMARY, text)
        return tuple(notes)

    def results(self) -> tuple[list[Record], dict[str, Any]]:
        """Records and summary of a finished run."""
        summary = files.read_json(self.out / files.SUMMARY)
        assert summary is not None, "finished"
        return read_records(self.out / files.METRICS), summary

    def close(self) -> None:
        """Close the records."""
        if self._metrics is not None:
            self._metrics.close()


def draw(out: Path, records: list[Record], summary: dict[str, Any]) -> None:
    """Write a run's pictures: its curves, and the drift panel where it was read."""
    from fedjax_sim.experiment.drift_plot import drift_picture
    from fedjax_sim.experiment.plots import curves

    figures = {files.CURVES: curves(records, summary)}
    if any("drift_cosine" in r for r in records):
        figures[files.DRIFT] = drift_picture(records, summary)
    for name, figure in figures.items():
        figure.savefig(out / name, dpi=150)
        figure.clear()


def _draw_timeline(out: Path, run: run_result.Run) -> None:
    """Write the picture of the virtual clock, where there is one."""
    log = None if run.state is None else getattr(run.state.sampler, "log", None)
    if log is None or "virtual_time_s" not in (run.records or [{}])[-1]:
        return
    from fedjax_sim.experiment.timeline_plot import timeline_picture

    figure = timeline_picture(log, run.records, run.summary)
    figure.savefig(out / files.TIMELINE, dpi=150)
    figure.clear()


def _jsonable(value: Any) -> Any:
    """Non-finite numbers as null, so that the file stays JSON."""
    if isinstance(value, dict):
        return {k: _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value
