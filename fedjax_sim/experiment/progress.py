"""Where a run stands, for those who watch it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from fedjax_sim.experiment.records import Record


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands; told once a chunk.

    Attributes:
      round: rounds done.
      rounds: R.
      latest: the newest record, with the newest value of every metric; empty at first.
      rounds_per_second: of this process, compile time left out; 0 at first.
      steps_per_second: local steps of clients a second, likewise.
      seconds_left: forecast, or None before the first chunk.
      phase: `compiling`, `training` or `done`.
    """

    round: int
    rounds: int
    latest: Record
    rounds_per_second: float
    steps_per_second: float
    seconds_left: float | None
    phase: str


OnProgress = Callable[[Progress], None]


@dataclasses.dataclass
class Clock:
    """Totals of the whole run, and where this process began."""

    round: int = 0
    seconds: float = 0.0
    client_steps: int = 0
    lane_steps: int = 0
    lane_steps_bound: int = 0
    began: tuple[int, float, int] = (0, 0.0, 0)

    def add(self, rounds: int, seconds: float, new: list[Record], lanes: dict[str, int]) -> None:
        """Count one dispatch."""
        self.round, self.seconds = self.round + rounds, self.seconds + seconds
        self.client_steps += sum(r.get("client_steps", 0) for r in new)
        self.lane_steps += lanes.get("lane_steps", 0)
        self.lane_steps_bound += lanes.get("lane_steps_bound", 0)

    def totals(self) -> dict[str, Any]:
        """What `summarize` takes."""
        names = ("seconds", "client_steps", "lane_steps", "lane_steps_bound")
        return {n: getattr(self, n) for n in names}

    def progress(self, phase: str, rounds: int, recent: list[Record]) -> Progress:
        """Where the run stands.

        Args:
          phase: see `Progress`.
          rounds: R.
          recent: the newest records, as many as hold one evaluation.
        """
        now = (self.round, self.seconds, self.client_steps)
        done, seconds, steps = (a - b for a, b in zip(now, self.began, strict=True))
        speed = done / seconds if seconds > 0 else 0.0
        latest: Record = {}
        for record in recent:
            latest |= record
        return Progress(
            round=self.round,
            rounds=rounds,
            latest=latest,
            rounds_per_second=speed,
            steps_per_second=steps / seconds if seconds > 0 else 0.0,
            seconds_left=(rounds - self.round) / speed if speed > 0 else None,
            phase=phase,
        )
