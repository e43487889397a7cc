"""How two simulators are timed against each other, and what a pair of timings says.

Everything here works on anything that has `run(rounds) -> seconds` and `loss() -> float`, so
that it can be tested without a clock.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, Protocol

LOSS_TOLERANCE = 0.05
"""Two simulators did the same work when their losses after the same rounds differ by at most this
share of what the loss has fallen since the start. Their cohorts and shuffles are drawn
differently, so the losses are never equal."""


class Simulator(Protocol):
    """What can be timed."""

    def run(self, rounds: int) -> float:
        """Run rounds; their seconds."""
        ...

    def loss(self) -> float:
        """The present model's loss."""
        ...


def warm_up(side: Simulator, rounds: int) -> dict[str, float]:
    """The first rounds, compilation included, and the loss before and after them."""
    before = side.loss()
    seconds = side.run(rounds)
    return {"initial_loss": before, "warm_seconds": seconds, "loss": side.loss()}


def block_rounds(side: Simulator, seconds: float, chunk: int = 1) -> int:
    """Rounds of a block that lasts about `seconds`, by a trial of one chunk, already warm.

    Args:
      side: what is timed.
      seconds: wanted.
      chunk: rounds a dispatch; a block is a whole number of dispatches.
    """
    trial = max(side.run(chunk), 1e-9)
    return chunk * max(1, math.ceil(seconds / trial - 0.5))


def interleave(
    sides: dict[str, Simulator], rounds: dict[str, int], pairs: int
) -> dict[str, list[float]]:
    """Time a block of every side in turn, `pairs` times; seconds a round for each."""
    timed: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(pairs):
        for name, side in sides.items():
            timed[name].append(side.run(rounds[name]) / rounds[name])
    return timed


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """How many times longer they take, pair by pair: the median, the least, the most, and all."""
    each = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "ratio": statistics.median(each),
        "ratio_min": min(each),
        "ratio_max": max(each),
        "ratios": each,
    }


def same_loss(ours: dict[str, float], theirs: dict[str, float]) -> bool:
    """Whether two `warm_up`s started alike and reached the same loss, within the tolerance."""
    if not all(math.isfinite(v) for v in (*ours.values(), *theirs.values())):
        return False
    fallen = abs(ours["initial_loss"] - ours["loss"])
    started = abs(ours["initial_loss"] - theirs["initial_loss"]) <= 1e-3 * fallen
    return started and abs(ours["loss"] - theirs["loss"]) <= LOSS_TOLERANCE * fallen
