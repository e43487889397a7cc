"""How far a sweep is, for those who watch it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedjax_sim.experiment.interrupt import Interrupted
from fedjax_sim.experiment.sweep_design import Design


@dataclasses.dataclass(frozen=True)
class SweepProgress:
    """Where a sweep stands; told before each compile, after every dispatch and at the end.

    Attributes:
      done: runs that are finished and kept.
      runs: of the whole sweep.
      share: of all rounds of all runs, those done, in 0 .. 1; counts the wave under way.
      group: the group under way, from 1.
      groups: how many there are.
      runs_per_second: of this process, compile time left out; 0 at first.
      seconds_left: forecast, compile time left out; None at first.
      phase: `compiling`, `running` or `done`.
    """

    done: int
    runs: int
    share: float
    group: int
    groups: int
    runs_per_second: float
    seconds_left: float | None
    phase: str


OnProgress = Callable[[SweepProgress], None]


class SweepInterrupted(Interrupted):
    """A sweep was stopped from outside; what had finished is kept.

    Attributes:
      words: how far it came.
    """

    def __init__(self, out: Path | None, done: int, runs: int) -> None:
        super().__init__(out, 0)
        kept = "; what had finished is kept" if out is not None else ""
        self.words = f"interrupted after {done} of {runs} runs{kept}"
        self.args = (self.words,)


class Clock:
    """Rounds of all runs, and how fast they went by."""

    def __init__(self, design: Design) -> None:
        seeds = len(design.seeds)
        self._each = {j: g.prepared.settings.rounds for g in design.groups for j in g.settings}
        self._seeds, self._groups, self._runs = seeds, len(design.groups), design.n_runs
        self._total = sum(self._each.values()) * seeds
        self._before = self._kept = self._wave = 0
        self.found = self._finished = 0
        self.seconds, self._started = 0.0, time.perf_counter()

    def before(self, done: Mapping[int, Any]) -> None:
        """Count the runs of an earlier process."""
        self._before = sum(self._each[run // self._seeds] for run in done)
        self.found = len(done)

    def start(self) -> None:
        """A wave begins."""
        self._started, self._wave = time.perf_counter(), 0

    def add(self, rounds: int) -> None:
        """`rounds` of the wave are done, over all of its runs."""
        self._wave = rounds

    def kept(self, rounds: int, runs: int) -> None:
        """The wave is finished and kept."""
        self.seconds += time.perf_counter() - self._started
        self._started = time.perf_counter()
        self._kept, self._wave = self._kept + rounds, 0
        self._finished += runs

    def progress(self, phase: str, done: int, group: int) -> SweepProgress:
        """Where the sweep stands."""
        under_way = time.perf_counter() - self._started if self._wave else 0.0
        mine, seconds = self._kept + self._wave, self.seconds + under_way
        speed = mine / seconds if seconds > 0 else 0.0
        left = max(self._total - self._before - mine, 0)
        mean = self._total / self._runs
        return SweepProgress(
            done=done,
            runs=self._runs,
            share=min(1.0, (self._before + mine) / self._total),
            group=group,
            groups=self._groups,
            runs_per_second=speed / mean,
            seconds_left=left / speed if speed > 0 else None,
            phase=phase,
        )
