"""Which way to run a device's share is fastest, by trying each for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from fedjax_sim.engine.sweep import INNER
from fedjax_sim.experiment.sweep_dispatch import Block, SweepDispatch, blocks_of


def fastest(made: Callable[[str], SweepDispatch], blocks: Sequence[Block]) -> SweepDispatch:
    """The dispatch that needs the least time a run and round.

    Args:
      made: from `map`, `hyper` or `vmap` to its dispatch.
      blocks: all runs of the group, one block a seed.

    Cost: a compile, and one warm and one timed round of a wave, for each way.
    """
    settings = blocks[0].settings
    timed: list[tuple[float, SweepDispatch]] = []
    for inner in INNER:
        if inner == "hyper" and len(settings) == 1:
            continue
        dispatch = made(inner)
        dispatch.compile()
        mine = blocks_of(settings, len(blocks), dispatch.plan.width)
        wave = mine if inner == "vmap" else mine[: dispatch.plan.devices]
        wave = wave[: dispatch.plan.held * dispatch.plan.devices]
        timed.append((_seconds_a_run(dispatch, wave), dispatch))
        dispatch.release()
    best = min(timed, key=lambda pair: pair[0])[1]
    return made(best.plan.inner)


def _seconds_a_run(dispatch: SweepDispatch, wave: Sequence[Block]) -> float:
    """Seconds of a round of the wave, by its runs; the first dispatch warms up."""
    dispatch.run(wave, rounds=1)
    start = time.perf_counter()
    dispatch.run(wave, rounds=1)
    return (time.perf_counter() - start) / sum(len(b.settings) for b in wave)
