"""Clients that use a mean of the shared model and one of their own (APFL)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.clients.kept import Kept, keep, own_model, unbegun
from fedjax_sim.clients.sgd import LocalWork, Weighting, local, loss_and_gradient
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData


class Share(NamedTuple):
    """A client's row: its own model, and how much of it the client uses, in [0, 1]."""

    kept: Kept
    alpha: Array


class ShareWork(NamedTuple):
    """What a client carries between local steps.

    Attributes:
      base: training of the shared model w.
      own: the client's model v; its state is that of the mean.
      opt: the state of its optimizer.
      alpha: its share.
    """

    base: LocalWork
    own: Model
    opt: PyTree
    alpha: Array


def mean_of(alpha: Array, own: Model, shared: Model) -> Model:
    """`alpha own + (1 - alpha) shared`, with the own state."""

    def mix(v: Array, w: Array) -> Array:
        a = alpha.astype(v.dtype)
        return a * v + (1 - a) * w

    return Model(jax.tree.map(mix, own.params, shared.params), own.state)


def model_in_use(row: Share, shared: Model) -> Model:
    """What the client would use now; `shared` as long as it never trained."""
    mixed = mean_of(row.alpha, row.kept.model, shared)
    return tree.where(row.kept.rounds > 0, mixed, shared)


def interpolating(
    optimizer: Any,
    alpha: Array | float,
    alpha_rate: Array | float,
    batches: Batches | None = None,
    *,
    weighting: Weighting = "uniform",
) -> Callable[[Task], ClientUpdate]:
    """Train w alone, and v so that `m = alpha v + (1 - alpha) w` is good, on the same batches.

    With g the gradient of the batch's loss at m, all from values before the step,
    `w <- w - opt(grad f(w))`, `v <- v - opt(alpha g)`,
    `alpha <- clip(alpha - alpha_rate <v - w, g>, 0, 1)`. In a client's first round v starts from
    the received model.

    Args:
      optimizer: any optax transformation, one for w and one for v; both start anew each round.
      alpha: the share before a client's first round.
      alpha_rate: 0 keeps the share.
      batches: how examples become local steps.
      weighting: see `clients.sgd.weigh`.

    Returns:
      `Task -> ClientUpdate` with a `Share` row; reports are those of `clients.sgd.local`, and
      `aux["alpha"]` is the share after the round.

    Cost: two gradients a local step; a row costs P; memory twice `local`'s.
    """
    rule = batches or Batches()
    base_of = local(optimizer, rule, weighting=weighting)
    opt = optax.with_extra_args_support(optimizer)

    def build(task: Task) -> ClientUpdate:
        base = base_of(task)

        def init(key: Array, model: Model) -> Share:
            del key
            return Share(unbegun(model), jnp.asarray(alpha, float))

        def start(ctx: Context, received: Model, row: Share, data: ClientData) -> ShareWork:
            own = own_model(row.kept, received)
            work = base.start(ctx, received, (), data)
            return ShareWork(work, own, opt.init(own.params), row.alpha)

        def step(
            ctx: Context, t: Array, work: ShareWork, received: Model, data: ClientData
        ) -> ShareWork:
            batch, _ = data.next(rule, work.base.feed, t)
            mixed = mean_of(work.alpha, work.own, work.base.model)
            value, state, grads = loss_and_gradient(task, ctx, t, mixed, batch)
            apart = tree.sub(work.own.params, work.base.model.params)
            extra = {"anchor": received.params, "round": ctx.round, "step": t, "value": value}
            pull = tree.scale(grads, work.alpha)
            updates, after = opt.update(pull, work.opt, work.own.params, **extra)
            own = Model(optax.apply_updates(work.own.params, updates), state)
            share = jnp.clip(work.alpha - alpha_rate * _inner_product(apart, grads), 0, 1)
            return ShareWork(
                base=base.step(ctx, t, work.base, received, data),
                own=tree.as_before(own, work.own),
                opt=tree.as_before(after, work.opt),
                alpha=share.astype(work.alpha.dtype),
            )

        def finish(
            ctx: Context, work: ShareWork, received: Model, row: Share, data: ClientData
        ) -> tuple[Report, Share]:
            report, _ = base.finish(ctx, work.base, received, (), data)
            kept = keep(row.kept, work.own, base.steps(ctx, data))
            return report._replace(aux=report.aux | {"alpha": work.alpha}), Share(kept, work.alpha)

        return ClientUpdate(init, base.steps, start, step, finish)

    return build


def _inner_product(a: PyTree, b: PyTree) -> Array:
    products = jax.tree.map(lambda x, y: jnp.sum((x * y).astype(float)), a, b)
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))
