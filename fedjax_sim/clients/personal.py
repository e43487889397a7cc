"""The two ends that every federated method is compared with: alone, and all together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from fedjax_sim.clients.sgd import LocalWork, local
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData


class Trained(NamedTuple):
    """A model with its optimizer's state, which outlives the round."""

    model: Model
    opt: PyTree


def _resumed(base: ClientUpdate) -> Callable[..., LocalWork]:
    """Start `base` from a `Trained` instead of from the received model."""

    def start(ctx: Context, trained: Trained, received: Model, data: ClientData) -> LocalWork:
        work = base.start(ctx, received, (), data)
        return work._replace(model=trained.model, opt=trained.opt)

    return start


def alone(optimizer: Any, batches: Batches | None = None) -> Callable[[Task], ClientUpdate]:
    """Train the client's own model, kept in its row; report nothing (weight 0).

    A row costs a model and an optimizer state. The optimizer goes on where it stopped.
    """
    base_of = local(optimizer, batches)
    opt = optax.with_extra_args_support(optimizer)

    def build(task: Task) -> ClientUpdate:
        base = base_of(task)
        resume = _resumed(base)

        def init(key: Array, model: Model) -> Trained:
            del key
            return Trained(model, opt.init(model.params))

        def start(ctx: Context, received: Model, row: Trained, data: ClientData) -> LocalWork:
            return resume(ctx, row, received, data)

        def finish(
            ctx: Context, work: LocalWork, received: Model, row: Trained, data: ClientData
        ) -> tuple[Report, Trained]:
            report, _ = base.finish(ctx, work, received, (), data)
            silent = report._replace(
                update=tree.zeros(report.update),
                weight=jnp.zeros_like(report.weight),
            )
            return silent, Trained(work.model, work.opt)

        return base._replace(init=init, start=start, finish=finish)

    return build


def pooled(optimizer: Any, batches: Batches | None = None) -> Callable[[Task], ClientUpdate]:
    """Train on the union of all clients' examples, going on from the server's `Trained`.

    Reports the new `Trained` itself, for `take_one` and `server_holds`.
    """
    base_of = local(optimizer, batches)

    def build(task: Task) -> ClientUpdate:
        base = base_of(task)
        resume = _resumed(base)

        def start(ctx: Context, received: Trained, row: PyTree, data: ClientData) -> LocalWork:
            del row
            return resume(ctx, received, received.model, data.whole())

        def step(
            ctx: Context, t: Array, work: LocalWork, received: Trained, data: ClientData
        ) -> LocalWork:
            return base.step(ctx, t, work, received.model, data.whole())

        def finish(
            ctx: Context, work: LocalWork, received: Trained, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            report, _ = base.finish(ctx, work, received.model, (), data.whole())
            return report._replace(update=Trained(work.model, work.opt)), row

        return ClientUpdate(
            base.init, lambda ctx, data: base.steps(ctx, data.whole()), start, step, finish
        )

    return build
