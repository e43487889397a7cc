"""Clients that follow a momentum which the server hands out (FedCM)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from fedjax_sim.clients.sgd import LocalWork, Weighting, local
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData
from fedjax_sim.transforms.momentum import measure_travel, mix_momentum


class Traveled(NamedTuple):
    """A model's decrease, and the sum of the learning rates by which it came about."""

    model: Model
    length: Array


def guided(
    optimizer: Any,
    alpha: Array | float,
    batches: Batches | None = None,
    *,
    weighting: Weighting = "uniform",
) -> Callable[[Task], ClientUpdate]:
    """Local training on `alpha g + (1 - alpha) m`, m being the server's momentum.

    Args:
      optimizer: any optax transformation.
      alpha: share of the gradient.
      batches: how examples become steps.
      weighting: see `sgd.weigh`.

    Returns:
      `Task -> ClientUpdate`, stateless; `received` has `model` and `momentum`, and the report's
      update is a `Traveled`. A lane carries the momentum no more than the received model.
    """
    mixed = optax.chain(mix_momentum(alpha), measure_travel(optimizer))
    base_of = local(mixed, batches, weighting=weighting)

    def build(task: Task) -> ClientUpdate:
        base = base_of(task)

        def start(ctx: Context, received: Any, row: PyTree, data: ClientData) -> LocalWork:
            return base.start(ctx, received.model, row, data)

        def step(
            ctx: Context, t: Array, work: LocalWork, received: Any, data: ClientData
        ) -> LocalWork:
            told = work._replace(extra={"momentum": received.momentum})
            return base.step(ctx, t, told, received.model, data)._replace(extra={})

        def finish(
            ctx: Context, work: LocalWork, received: Any, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            report, row = base.finish(ctx, work, received.model, row, data)
            return report._replace(update=Traveled(report.update, work.opt[1].length)), row

        return ClientUpdate(base.init, base.steps, start, step, finish)

    return build
