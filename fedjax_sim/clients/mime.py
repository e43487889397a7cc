"""Clients that step with the server's optimizer statistics (Mime, MimeLite)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from fedjax_sim.clients.anchor import at_model, full_gradient
from fedjax_sim.clients.exchange import Asked, asked_first
from fedjax_sim.clients.phases import phases
from fedjax_sim.clients.sgd import (
    GradientWork,
    LocalWork,
    Weighting,
    local,
    loss_and_gradient,
    mean_gradient,
)
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData
from fedjax_sim.transforms.correction import add_correction
from fedjax_sim.transforms.hold import hold_state

Client = Callable[[Task], ClientUpdate]


class Beside(NamedTuple):
    """What MimeLite reports: the model's decrease, and the exact gradient at the received model."""

    model: Model
    gradient: PyTree


def mimicking(
    optimizer: Any, batches: Batches | None = None, *, weighting: Weighting = "uniform"
) -> Client:
    """Mime: local steps on `g(y; batch) - g(x; batch) + c`, with the server's statistics.

    In even rounds the client measures and reports its share of c; see `clients.exchange`.

    Args:
      optimizer: the base optimizer, whose state the server sends.
      batches: how examples become steps.
      weighting: see `sgd.weigh`.

    Returns:
      `Task -> ClientUpdate`, stateless, with `received` an `Asked`.

    Cost: two gradients a local step.
    """
    return asked_first(_held(optimizer, batches or Batches(), weighting, paired=True))


def mimicking_lite(
    optimizer: Any, batches: Batches | None = None, *, weighting: Weighting = "uniform"
) -> Client:
    """MimeLite: plain local gradients with the server's statistics; `g_i(x)` is reported beside.

    Args:
      optimizer: the base optimizer, whose state the server sends.
      batches: how examples become steps.
      weighting: see `sgd.weigh`.

    Returns:
      `Task -> ClientUpdate`, stateless; receives an `Asked`, whose gradient is not looked at, and
      reports a `Beside`.

    Cost: one pass of gradients more than local training.
    """

    def told(said: Report, work: GradientWork, ctx: Context, data: ClientData) -> Report:
        del ctx, data
        return said._replace(update=Beside(said.update, mean_gradient(work)))

    then = _held(optimizer, batches or Batches(), weighting, paired=False)
    return phases(full_gradient(), then, report=told)


def _held(optimizer: Any, batches: Batches, weighting: Weighting, *, paired: bool) -> Client:
    """Local training whose optimizer state is the server's and stays so."""
    held = hold_state(optimizer)
    steer = optax.chain(add_correction(), held) if paired else optax.chain(held)
    base_of = at_model(local(steer, batches, weighting=weighting))

    def build(task: Task) -> ClientUpdate:
        base = base_of(task)

        def start(ctx: Context, received: Asked, row: PyTree, data: ClientData) -> LocalWork:
            work = base.start(ctx, received, row, data)
            return work._replace(opt=(*work.opt[:-1], received.opt))

        def step(
            ctx: Context, t: Array, work: LocalWork, received: Asked, data: ClientData
        ) -> LocalWork:
            batch, _ = data.next(batches, work.feed, t)
            _, _, there = loss_and_gradient(task, ctx, t, received.model, batch)
            paired = work._replace(extra={"correction": tree.sub(received.gradient, there)})
            return base.step(ctx, t, paired, received, data)._replace(extra={})

        return base._replace(start=start, step=step if paired else base.step)

    return build
