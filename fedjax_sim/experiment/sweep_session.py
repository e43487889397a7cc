"""A sweep: waves of runs one after another, with records, a folder and an end."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from fedjax_sim.experiment import sweep_plan, sweep_records
from fedjax_sim.experiment.identity import identity
from fedjax_sim.experiment.interrupt import Request, listen
from fedjax_sim.experiment.summary import peak_memory, versions
from fedjax_sim.experiment.sweep_design import Design, Group
from fedjax_sim.experiment.sweep_dispatch import Block, Buffers, SweepDispatch, blocks_of
from fedjax_sim.experiment.sweep_folder import SweepFolder, merged
from fedjax_sim.experiment.sweep_plan import SweepPlan
from fedjax_sim.experiment.sweep_probe import fastest
from fedjax_sim.experiment.sweep_progress import Clock, OnProgress, SweepInterrupted
from fedjax_sim.experiment.sweep_records import Curves
from fedjax_sim.experiment.sweep_result import Sweep

SweepText = Callable[[str, list[SweepPlan | None]], str]


class SweepSession:
    """All runs of a design.

    Attributes:
      design: what is run.
      plans: of each group; None where the group had finished before.
    """

    def __init__(
        self,
        design: Design,
        *,
        text: SweepText,
        folder: SweepFolder | None = None,
        inner: str = "auto",
        devices: int | None = None,
    ) -> None:
        """Check all input and trace the programs; nothing is written or compiled.

        Args:
          design: seeds, settings and groups.
          text: from the sweep's identity and its groups' plans to the text of `sweep.toml`.
          folder: where it goes, or None to keep everything in memory.
          inner: how a device runs its share; see `sweep_plan`.
          devices: that runs are dealt to; None for all.

        Raises:
          InputError: naming the field.
        """
        sweep_plan.check_inner(inner)
        self.design, self._folder, self._text = design, folder, text
        self._inner, self._devices = inner, devices
        self._wide = contextlib.nullcontext
        if any(g.prepared.settings.float64 for g in design.groups):
            self._wide = lambda: jax.enable_x64(True)
        self._done: dict[int, dict[str, Any]] = {}
        self._parts: list[Curves] = []
        self._clock = Clock(design)
        self.compile_seconds = 0.0
        with self._wide():
            self.identity = _identity(design)
            if folder is not None:
                folder.check(self.identity)
                self._done = folder.done()
            self._clock.before(self._done)
            self._dispatches = [self._dispatch(i) for i in range(len(design.groups))]
        self.plans = [None if d is None else d.plan for d in self._dispatches]

    def _dispatch(self, index: int) -> SweepDispatch | None:
        """The program of a group, or None where none of its runs is missing."""
        group, design = self.design.groups[index], self.design
        if not self._missing(group):
            return None
        kept = self._kept(index)

        def made(inner: str, width: int | None = None) -> SweepDispatch:
            def plan(state: Any) -> SweepPlan:
                return sweep_plan.choose(
                    group.prepared,
                    state,
                    seeds=len(design.seeds),
                    settings=len(group.settings),
                    inner=inner,
                    devices=self._devices,
                    width=width,
                )

            return SweepDispatch(group.prepared, plan, design.seeds, design.settings)

        if kept:
            return made(kept["inner"], kept["width"])
        if self._inner == "probe":
            first = blocks_of(group.settings, len(design.seeds), len(group.settings))
            return fastest(made, first)
        return made(self._inner)

    def _kept(self, index: int) -> Mapping[str, Any]:
        """The plan that the folder's sweep began with."""
        if self._folder is None or self._folder.found is None:
            return {}
        return self._folder.found["group"][index].get("plan", {})

    def _missing(self, group: Group) -> bool:
        seeds = range(len(self.design.seeds))
        return any(self.design.run(j, s) not in self._done for j in group.settings for s in seeds)

    def run(self, on_progress: OnProgress | None = None) -> Sweep:
        """Run what is missing.

        Args:
          on_progress: called with a `SweepProgress`.

        Raises:
          SweepInterrupted: on Ctrl-C or SIGTERM, after finished waves were written.
        """
        tell = on_progress or (lambda progress: None)
        with self._wide(), listen() as request:
            if self._folder is not None and self._folder.finished:
                return self._result({"finished_before": True})
            if self._folder is not None:
                self._folder.begin(lambda: self._text(self.identity, self.plans))
            try:
                for i, dispatch in enumerate(self._dispatches):
                    if dispatch is not None:
                        self._group(i, dispatch, tell, request)
            except KeyboardInterrupt:
                raise self._stop() from None
            result = self._result({})
            tell(self._clock.progress("done", len(self._done), len(self.design.groups)))
            return result

    def _group(
        self, index: int, dispatch: SweepDispatch, tell: OnProgress, request: Request
    ) -> None:
        """All missing blocks of a group."""
        group, clock = self.design.groups[index], self._clock
        tell(clock.progress("compiling", len(self._done), index + 1))
        dispatch.compile()
        self.compile_seconds += dispatch.compile_seconds
        rounds = group.prepared.settings.rounds
        left = blocks_of(group.settings, len(self.design.seeds), dispatch.plan.width)
        left = [b for b in left if any(r not in self._done for r in self._runs(b))]
        while left:
            wave = dispatch.next_wave(left)
            n_runs = sum(len(b.settings) for b in wave)

            def told(done: int, n_runs: int = n_runs) -> None:
                clock.add(n_runs * done)
                tell(clock.progress("running", len(self._done), index + 1))
                if request.stop and done < rounds:
                    raise self._stop()

            clock.start()
            buffers = dispatch.run(wave, told)
            self._keep(dispatch, wave, buffers)
            clock.kept(n_runs * rounds, n_runs)
            tell(clock.progress("running", len(self._done), index + 1))
            left = left[len(wave) :]
            if request.stop and left:
                raise self._stop()
        dispatch.release()
        if request.stop and len(self._done) < self.design.n_runs:
            raise self._stop()

    def _runs(self, block: Block) -> list[int]:
        return [self.design.run(j, block.seed) for j in block.settings]

    def _keep(self, dispatch: SweepDispatch, wave: Any, buffers: Buffers) -> None:
        """Turn a wave into records and curves, durable on return; runs kept before stay."""
        runs = np.array([r for block in wave for r in self._runs(block)])
        new = np.array([r not in self._done for r in runs])
        curves = sweep_records.curves_of(buffers, dispatch.probes)
        outcomes = sweep_records.outcomes(curves, dispatch.probes, buffers["sound"])
        seeds = len(self.design.seeds)
        records = [
            self.design.facts(int(r)) | {"setting": int(r) // seeds} | outcome
            for r, outcome, fresh in zip(runs, outcomes, new, strict=True)
            if fresh
        ]
        curves = {n: v[new] for n, v in curves.items()}
        if self._folder is not None:
            self._folder.append(records, curves)
        else:
            self._parts.append({"run": runs[new]} | curves)
        self._done |= {record["run"]: record for record in records}

    def _stop(self) -> SweepInterrupted:
        out = None if self._folder is None else self._folder.out
        return SweepInterrupted(out, len(self._done), self.design.n_runs)

    def _result(self, facts: dict[str, Any]) -> Sweep:
        """The result, written to the folder unless it was finished before."""
        design, folder = self.design, self._folder
        records = [self._done[run] for run in sorted(self._done)]
        curves = (
            merged(self._parts, design.n_runs) if folder is None else folder.curves(design.n_runs)
        )
        first = design.groups[0]
        rows = sweep_records.summary_rows(records, design.varied)
        metrics = sweep_records.metrics_of(records)
        best = sweep_records.best_row(rows, metrics[0]) if metrics else None
        summary: dict[str, Any] = {
            "status": "done",
            "algorithm": first.prepared.name,
            "federation": first.prepared.federation.name,
            "runs": design.n_runs,
            "settings": len(design.settings),
            "seeds": list(design.seeds),
            "groups": len(design.groups),
            "diverged": sum(r["status"] == sweep_records.DIVERGED for r in records),
            "metric": metrics[0] if metrics else None,
            "best": None if best is None else rows[best],
            "seconds": self._clock.seconds,
            "compile_seconds": self.compile_seconds,
            "plans": [None if p is None else dataclasses.asdict(p) for p in self.plans],
            "versions": versions(),
            **peak_memory(),
        }
        result = Sweep(
            records=records,
            curves=curves,
            varied=design.varied,
            summary=summary,
            out=None if folder is None else folder.out,
            finished_before=bool(facts),
            resumed_from=self._clock.found,
        )
        if folder is not None and not folder.finished:
            figure = result.plot()
            folder.finish(records, rows, curves, figure, summary)
            figure.clear()
        return result


def _identity(design: Design) -> str:
    """SHA-256 of all that decides what the runs come to, but the plan."""
    total = hashlib.sha256()
    for group in design.groups:
        points = [(design.settings[j].values, design.settings[j].hyper) for j in group.settings]
        p = group.prepared
        shapes = jax.eval_shape(p.init_state, p.init)
        told = repr((design.seeds, design.varied, group.settings, points, group.facts))
        total.update(identity(p, shapes, told).encode())
    return total.hexdigest()
