"""A run: dispatches one after another, with records, checkpoints and an end."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Model
from fedjax_sim.data.federated import Federation
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.engine.forecast import Forecast
from fedjax_sim.engine.simulate import RunState
from fedjax_sim.experiment import records as recording
from fedjax_sim.experiment.cache_dir import keeping_programs
from fedjax_sim.experiment.checkpoint import Position
from fedjax_sim.experiment.diagnosis import groups_found, judge, of_groups
from fedjax_sim.experiment.dispatch import Dispatch
from fedjax_sim.experiment.folder import Folder, config_of
from fedjax_sim.experiment.interrupt import Interrupted, Request, listen
from fedjax_sim.experiment.keeper import Keeper
from fedjax_sim.experiment.policy import GO_ON, STOP
from fedjax_sim.experiment.prepare import Prepared, prepare
from fedjax_sim.experiment.progress import Clock, OnProgress, Progress
from fedjax_sim.experiment.records import Record
from fedjax_sim.experiment.run_result import Run
from fedjax_sim.experiment.settings import PROBE, ConfigText, Settings, checkpoint_rounds
from fedjax_sim.experiment.summary import summarize

_CHECKPOINT_APART_S = 2.0


class Session:
    """One run of a recipe on a task and a federation.

    Attributes:
      prepared: everything bound; `prepared.settings` are the resolved settings.
      out: the run directory, or None.
      notes: what a person should be told of how the plan was found.
    """

    @keeping_programs()
    def __init__(
        self,
        recipe: Recipe,
        task: Any,
        federation: Federation,
        settings: Settings | None = None,
        *,
        out: str | Path | None = None,
        config_text: ConfigText | None = None,
        facts: dict[str, Any] | None = None,
        init: Model | None = None,
        sampler: Sampler | None = None,
        hyper: dict[str, Any] | None = None,
        groups: Any = None,
        resume: bool = False,
    ) -> None:
        """Check all input and trace the program; nothing is written or compiled.

        Args:
          recipe: the algorithm.
          task: a `Task`, or a task that waits for the data's shape.
          federation: the data.
          settings: how the run is driven.
          out: the run directory to make, or None to keep everything in memory.
          config_text: what `config.toml` shall hold, or a function that makes it of the
            resolved settings; by default those settings alone.
          facts: JSON-ready values for `summary.json`.
          init: a model to start from.
          sampler: who takes part; uniform by default.
          hyper: numbers in place of the recipe's own.
          groups: int `[N]`, each client's group, for diagnosis.
          resume: go on with the run in `out`, with the plan that it began with.

        Raises:
          InputError: naming the field.
        """
        settings = settings or Settings()
        self.out = None if out is None else Path(out)
        self._facts = facts or {}
        self._wide = contextlib.nullcontext
        if settings.float64:
            self._wide = lambda: jax.enable_x64(True)
        folder = None if self.out is None else Folder(self.out, resume=resume)
        with self._wide():
            if folder is not None and resume:
                settings = folder.with_plan(settings)
            ready = functools.partial(
                prepare,
                recipe,
                task,
                federation,
                init=init,
                sampler=sampler,
                hyper=hyper,
                groups=groups,
                rows_away=True,
            )
            self.notes: list[str] = []
            if settings.lanes == PROBE:
                from fedjax_sim.experiment.tuning import tuned

                settings, *self.notes = tuned(ready, settings)
            self.prepared: Prepared = ready(settings=settings)
            self._dispatch = Dispatch(self.prepared, out=self.out)
            policy = self.settings.policy
            self._keeper = Keeper(policy, self.prepared, judge) if policy.acts else None
            if folder is not None:
                text = config_of(config_text, self.prepared)
                folder.identify(self.prepared, self._kept_shapes, text)
        self._folder = folder
        self._records: list[Record] = []
        self._clock = Clock()
        self._saved_s, self._sound = 0.0, True

    @property
    def settings(self) -> Settings:
        """The resolved settings: cohort, lanes, devices and chunk are numbers."""
        return self.prepared.settings

    @property
    def forecast(self) -> Forecast:
        """What the run will hold, in bytes by kind."""
        return self._dispatch.forecast

    @keeping_programs()
    def run(self, on_progress: OnProgress | None = None) -> Run:
        """Train to the last round, or to where a number is no longer finite.

        Args:
          on_progress: called with a `Progress` before the compile, after every chunk and
            at the end.

        Raises:
          Interrupted: on Ctrl-C or SIGTERM, after records and checkpoint were written.
        """
        tell = on_progress or (lambda progress: None)
        with self._wide(), listen() as request:
            if self._folder is not None and self._folder.finished:
                return self._finished_before()
            if self._folder is not None:
                self._folder.begin()
            tell(self._progress("compiling"))
            try:
                fresh = self._folder is None or not self._folder.restores
                self._dispatch.compile(draw=fresh)
                state = self._first_state()
                state, status = self._train(state, tell, request)
                result = self._finish(state, status)
            finally:
                if self._folder is not None:
                    self._folder.close()
            tell(self._progress("done"))
            return result

    def _first_state(self) -> RunState:
        found = None if self._folder is None else self._folder.restore(self._kept_shapes)
        if found is None:
            state = self._dispatch.first_state()
            if self._keeper is not None:
                self._keeper.begin(state)
            return state
        state, p, self._records = found
        if self._keeper is not None:
            state, best = state
            self._keeper.take_up(p.course, best)
        begin = (p.round, p.wall_time_s, p.client_steps)
        self._clock = Clock(
            p.round, p.wall_time_s, p.client_steps, p.lane_steps, p.lane_steps_bound, begin
        )
        self._saved_s = p.wall_time_s
        return self._dispatch.adopt(state)

    def _train(self, state: RunState, tell: OnProgress, request: Request) -> tuple[RunState, str]:
        clock = self._clock
        while clock.round < self.settings.rounds:
            if request.stop:
                raise self._stop(state)
            stop = self.prepared.stop_after(clock.round)
            state, ending = self._chunk(state, stop - clock.round)
            if ending:
                return state, ending
            if self._due(clock.round):
                self._checkpoint(state)
            try:
                tell(self._progress("training"))
            except KeyboardInterrupt:
                raise self._stop(state) from None
        return state, "done"

    def _chunk(self, state: RunState, rounds: int) -> tuple[RunState, str]:
        """One dispatch; its records are with the operating system on return.

        Returns:
          The state to go on from, and how the run ends here, or "".
        """
        start, clock = time.perf_counter(), self._clock
        state, buffers = self._dispatch(state, rounds)
        good = int(buffers["sound"][:rounds].sum())
        self._sound = good == rounds
        done = min(good + 1, rounds)
        seconds = time.perf_counter() - start
        new = recording.chunk_records(
            buffers,
            self._dispatch.probes,
            first_round=clock.round + 1,
            rounds=done,
            seconds=(clock.seconds, clock.seconds + seconds),
        )
        lanes = recording.lane_totals(buffers, done)
        if self._sound:
            self._add(new, seconds, lanes)
        else:
            # The checkpoint of the last good state counts the records up to it and no more.
            self._add(new[:good], seconds, lanes)
            round_index = jnp.asarray(clock.round, jnp.int32)
            state = state._replace(round=round_index, sound=jnp.ones((), bool))
            self._checkpoint(state)
            self._add(new[good:], 0.0, {})
        return self._judge(state, done)

    def _add(self, new: list[Record], seconds: float, lanes: dict[str, int]) -> None:
        self._clock.add(len(new), seconds, new, lanes)
        self._records += new
        if self._folder is not None:
            self._folder.append(new)

    def _judge(self, state: RunState, new: int) -> tuple[RunState, str]:
        """Let the policy act on the newest rounds."""
        if self._keeper is None:
            return state, "" if self._sound else "diverged"
        after, action = self._keeper.after(state, self._records, new, sound=self._sound)
        if action == STOP:
            return state, "stopped" if self._sound else "diverged"
        return (state if action == GO_ON else self._dispatch.adopt(after)), ""

    def _kept(self, state: Any) -> Any:
        """What a checkpoint holds: the state, and the best one where a policy keeps it."""
        state = self._dispatch.kept(state, self._clock.round)
        return state if self._keeper is None else (state, self._keeper.best)

    @property
    def _kept_shapes(self) -> Any:
        shapes = self._dispatch.shapes
        if self._keeper is None:
            return shapes
        return (shapes, shapes if self._keeper.keeps_best else None)

    def _due(self, done: int) -> bool:
        """Whether a checkpoint follows round `done`.

        Where the user gave no number, one that would come too soon after the last is left out.
        It would cost more than the rounds that it saves.
        """
        given, every = self.settings.checkpoint_every, checkpoint_rounds(self.settings)
        if done == self.settings.rounds or every == 0 or done % every:
            return done == self.settings.rounds
        return given is not None or self._clock.seconds - self._saved_s >= _CHECKPOINT_APART_S

    @property
    def _good_rounds(self) -> int | None:
        """Rounds done in the state that is kept, where the last was undone; else None."""
        lost = bool(self._records) and not self._sound
        return len(self._records) - 1 if lost else None

    def _checkpoint(self, state: RunState) -> None:
        self._saved_s = self._clock.seconds
        if self._folder is None:
            return
        clock, settings = self._clock, self.settings
        size, digest = self._folder.written()
        assert isinstance(settings.lanes, int) and settings.devices and settings.chunk
        position = Position(
            round=clock.round,
            metrics_bytes=size,
            metrics_sha256=digest,
            wall_time_s=clock.seconds,
            client_steps=clock.client_steps,
            lane_steps=clock.lane_steps,
            lane_steps_bound=clock.lane_steps_bound,
            lanes=settings.lanes,
            devices=settings.devices,
            chunk=settings.chunk,
            client_state=settings.client_state,
            course={} if self._keeper is None else self._keeper.facts(),
        )
        kept = self._kept(state)
        self._folder.checkpoint(jax.device_get(kept), position, keep=settings.keep_checkpoints)

    def _stop(self, state: RunState) -> Interrupted:
        self._checkpoint(state)
        return Interrupted(self.out, self._clock.round)

    def _progress(self, phase: str) -> Progress:
        recent = self._records[-self.settings.eval_every :]
        return self._clock.progress(phase, self.settings.rounds, recent)

    def _finish(self, state: RunState, status: str) -> Run:
        summary = summarize(
            self.prepared,
            self._records,
            status=status,
            totals=self._clock.totals(),
            compile_seconds=self._dispatch.compile_seconds,
            facts=self._facts,
            good_rounds=self._good_rounds,
            course=None if self._keeper is None else self._keeper.course,
        )
        groups, found = of_groups(state), groups_found(state, self.prepared)
        summary |= {"group_verdicts": groups} if groups else {}
        summary |= {"groups": found} if found else {}
        run = self._result(state, summary)
        if self._folder is None:
            return run
        return dataclasses.replace(run, notes=self._folder.finish(run))

    def _result(self, state: RunState | None, summary: dict[str, Any]) -> Run:
        p, model, models = self.prepared, None, None
        if p.algorithm.global_model is not None and state is not None:
            model = p.algorithm.global_model(state.algorithm)
        if p.algorithm.models is not None and state is not None:
            models = p.algorithm.models(state.algorithm)
        return Run(
            records=self._records,
            summary=summary,
            model=model,
            federation=p.federation,
            algorithm=p.algorithm,
            state=None if state is None else self._dispatch.handed(state),
            status=summary["status"],
            out=self.out,
            resumed_from=self._clock.began[0],
            models=models,
        )

    def _finished_before(self) -> Run:
        assert self._folder is not None
        found = self._folder.restore(self._kept_shapes)
        kept = None if found is None else found[0]
        if kept is not None and self._keeper is not None:
            kept = kept[0]
        state = None if kept is None else self._dispatch.adopt(kept)
        self._records, summary = self._folder.results()
        run = self._result(state, summary)
        return dataclasses.replace(run, finished_before=True, resumed_from=summary["rounds"])
