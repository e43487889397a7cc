"""Clients that follow a momentum which the server hands out (FedCM)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.clients.sgd import LocalWork, Weighting, local
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData
from fedjax_sim.transforms.momentum import along, measure_travel, mix_momentum
from fedjax_sim.transforms.plain import rates_of


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

    The rates of the steps are known for plain SGD and measured for any other optimizer, which takes
    two sums over P a step.

    Args:
      optimizer: any optax transformation.
      alpha: share of the gradient.
      batches: how examples become steps.
      weighting: see `sgd.weigh`.

    Returns:
      `Task -> ClientUpdate`, stateless; `received` has `model` and `momentum`, and the report's
      update is a `Traveled`. A lane carries the momentum no more than the received model.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    mix = mix_momentum(alpha)
    measuring_of = local(optax.chain(mix, measure_travel(optimizer)), batches, weighting=weighting)
    plain_of = local(optax.chain(mix, optimizer), batches, weighting=weighting)

    def build(task: Task) -> ClientUpdate:
        measuring, plain = measuring_of(task), plain_of(task)

        def base_and_rates(received: Any) -> tuple[ClientUpdate, PyTree | None]:
            """Where every step has the same rates, they are not measured at each."""
            rates = rates_of(optimizer, received.model.params)
            return (measuring if rates is None else plain), rates

        def start(ctx: Context, received: Any, row: PyTree, data: ClientData) -> LocalWork:
            return base_and_rates(received)[0].start(ctx, received.model, row, data)

        def step(
            ctx: Context, t: Array, work: LocalWork, received: Any, data: ClientData
        ) -> LocalWork:
            base, told = base_and_rates(received)[0], {"momentum": received.momentum}
            work = base.step(ctx, t, work._replace(extra=told), received.model, data)
            return work._replace(extra={})

        def finish(
            ctx: Context, work: LocalWork, received: Any, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            base, rates = base_and_rates(received)
            report, row = base.finish(ctx, work, received.model, row, data)
            if rates is None:
                length = work.opt[1].length
            else:
                steps = base.steps(ctx, data)
                length = steps.astype(float) * _rate(report.update.params, rates)
            return report._replace(update=Traveled(report.update, length)), row

        return ClientUpdate(measuring.init, measuring.steps, start, step, finish)

    return build


def _rate(moved: PyTree, rates: PyTree) -> Array:
    """The rate of plain SGD; where it is not one, its mean along the way that the client went."""
    way = jax.tree.map(lambda m, a: jnp.where(a != 0, m / jnp.where(a != 0, a, 1), 0), moved, rates)
    return along(moved, way)
