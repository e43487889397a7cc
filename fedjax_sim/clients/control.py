"""Clients that keep a control variate (SCAFFOLD)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.clients.anchor import full_gradient
from fedjax_sim.clients.phases import phases
from fedjax_sim.clients.sgd import GradientWork, LocalWork, Weighting, local, mean_gradient
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData
from fedjax_sim.transforms.correction import add_correction, remember_sum
from fedjax_sim.transforms.plain import rates_of


class Controlled(NamedTuple):
    """A model and a control variate, as sent down or (as decreases) reported up.

    Attributes:
      model: the global model, or its decrease.
      control: c, or the decrease of c_i.
      measured: the client's own gradient at `model`, where it is known; else None.
    """

    model: Model
    control: PyTree
    measured: PyTree = None


def controlled(
    optimizer: Any,
    batches: Batches | None = None,
    *,
    weighting: Weighting = "uniform",
    measure: bool = False,
) -> Callable[[Task], ClientUpdate]:
    """Local training on `g + c - c_i`; the client's row is its control variate c_i.

    The new c_i is the mean of the raw gradients met on the way. For plain SGD of rate eta it is
    found as in option II of the paper, `c_i - c + (x - y) / (steps eta)`; for any other optimizer,
    schedule and narrow dtype the gradients are summed, which carries P more and takes three passes
    over it in every step. With `measure` it is the exact
    gradient at the received model, option I. A client that takes no local step keeps its c_i.

    Args:
      optimizer: any optax transformation.
      batches: how examples become steps.
      weighting: see `sgd.weigh`; the paper averages uniformly.
      measure: whether a pass over all examples at the received model comes first.

    Returns:
      `Task -> ClientUpdate` with `received` a `Controlled`; a row costs P.
    """
    client = _controlled(optimizer, batches, weighting, measure)
    if not measure:
        return client

    def given(received: Controlled, work: GradientWork) -> Controlled:
        return Controlled(received.model, received.control, mean_gradient(work))

    return phases(full_gradient(), client, given=given, anew=False)


def _controlled(
    optimizer: Any, batches: Batches | None, weighting: Weighting, measured: bool
) -> Callable[[Task], ClientUpdate]:
    optimizer = optax.with_extra_args_support(optimizer)
    steer = optax.chain(add_correction(), optimizer)
    summing_of = local(optax.chain(remember_sum(), steer), batches, weighting=weighting)
    plain_of = local(steer, batches, weighting=weighting)

    def build(task: Task) -> ClientUpdate:
        summing, plain = summing_of(task), plain_of(task)

        def base_and_rates(received: Controlled) -> tuple[ClientUpdate, PyTree | None]:
            """Where steps say what the gradients were, no sum of them is carried."""
            rates = None if measured else rates_of(optimizer, received.model.params)
            return (plain if measured or rates is not None else summing), rates

        def init(key: Array, model: Model) -> PyTree:
            del key
            return tree.zeros(model.params)

        def start(ctx: Context, received: Controlled, row: PyTree, data: ClientData) -> LocalWork:
            work = base_and_rates(received)[0].start(ctx, received.model, (), data)
            return work._replace(extra={"correction": tree.sub(received.control, row)})

        def step(
            ctx: Context, t: Array, work: LocalWork, received: Controlled, data: ClientData
        ) -> LocalWork:
            return base_and_rates(received)[0].step(ctx, t, work, received.model, data)

        def finish(
            ctx: Context, work: LocalWork, received: Controlled, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            base, rates = base_and_rates(received)
            report, _ = base.finish(ctx, work, received.model, (), data)
            steps = base.steps(ctx, data)
            if measured:
                fresh = received.measured
            elif rates is not None:
                moved = report.update.params
                fresh = _met(moved, rates, steps, work.extra["correction"], row)
            else:
                safe = jnp.maximum(steps, 1)
                fresh = jax.tree.map(lambda s: s / safe.astype(s.dtype), work.opt[0].total)
            fresh = tree.where(steps > 0, fresh, row)
            return report._replace(update=Controlled(report.update, tree.sub(row, fresh))), fresh

        return ClientUpdate(init, plain.steps, start, step, finish)

    return build


def _met(moved: PyTree, rates: PyTree, steps: Array, correction: PyTree, row: PyTree) -> PyTree:
    """The mean raw gradient, `(x - y) / (steps eta) - (c - c_i)`; c_i stays where eta is 0."""

    def one(m: Array, a: Array, c: Array, old: Array) -> Array:
        total = a * jnp.maximum(steps, 1).astype(m.dtype)
        return jnp.where(total != 0, m / jnp.where(total != 0, total, 1) - c, old)

    return jax.tree.map(one, moved, rates, correction, row)
