"""Clients that descend the Moreau envelope of their loss (pFedMe)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.clients.kept import Kept, keep, unbegun
from fedjax_sim.clients.sgd import LocalWork, Weighting, local, loss_and_gradient
from fedjax_sim.core import tree
from fedjax_sim.core.checks import integer
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData
from fedjax_sim.transforms.correction import add_proximal


class MoreauWork(NamedTuple):
    """What a client carries between local steps.

    Attributes:
      base: feed and tally; its model is theta, the personal one.
      center: params w, the local copy of the shared model.
    """

    base: LocalWork
    center: PyTree


def moreau(
    optimizer: Any,
    penalty: Array | float,
    rate: Array | float,
    inner: int,
    batches: Batches | None = None,
    *,
    weighting: Weighting = "uniform",
) -> Callable[[Task], ClientUpdate]:
    """Each local step solves a proximal problem on its batch and moves w towards the solution.

    `theta ~ argmin f(theta; batch) + lambda/2 |theta - w|^2` by `inner` steps of `optimizer` from
    the last theta (w in a round's first step), then `w <- w - rate lambda (w - theta)`; the
    direction is the gradient of the Moreau envelope of f at w.

    Args:
      optimizer: any optax transformation, of the inner problem; starts anew for each batch.
      penalty: lambda.
      rate: eta, of w.
      inner: K, steps on one batch.
      batches: how examples become local steps.
      weighting: see `clients.sgd.weigh`.

    Returns:
      `Task -> ClientUpdate`; the row is a `Kept` theta, the report the decrease of w.

    Cost: K gradients a local step; a row costs P; memory one model more than `local`.
    """
    steps_inside = integer("algorithm.inner", inner, least=1)
    rule = batches or Batches()
    base_of = local(optimizer, rule, weighting=weighting)
    opt = optax.chain(add_proximal(penalty), optax.with_extra_args_support(optimizer))

    def build(task: Task) -> ClientUpdate:
        base = base_of(task)

        def start(ctx: Context, received: Model, row: Kept, data: ClientData) -> MoreauWork:
            del row
            work = base.start(ctx, received, (), data)._replace(opt=())
            return MoreauWork(work, received.params)

        def solve(ctx: Context, t: Array, work: MoreauWork, batch: Batch) -> tuple[Model, Array]:
            def one(k: Array, carry: PyTree) -> PyTree:
                model, state, _ = carry
                turn = t * steps_inside + k
                value, fresh, grads = loss_and_gradient(task, ctx, turn, model, batch)
                extra = {"anchor": work.center, "round": ctx.round, "step": k, "value": value}
                updates, after = opt.update(grads, state, model.params, **extra)
                model = Model(optax.apply_updates(model.params, updates), fresh)
                return tree.as_before((model, after, value), carry)

            theta = work.base.model
            first = tree.strong((theta, opt.init(theta.params), work.base.loss_sum))
            model, _, value = jax.lax.fori_loop(0, steps_inside, one, first)
            return model, value

        def step(
            ctx: Context, t: Array, work: MoreauWork, received: Model, data: ClientData
        ) -> MoreauWork:
            del received
            batch, feed = data.next(rule, work.base.feed, t)
            theta, value = solve(ctx, t, work, batch)
            share = penalty * rate

            def towards(w: Array, to: Array) -> Array:
                return w - jnp.asarray(share, w.dtype) * (w - to)

            center = jax.tree.map(towards, work.center, theta.params)
            seen = jnp.sum(batch.mask).astype(work.base.loss_count.dtype)
            base = work.base._replace(
                model=theta,
                feed=feed,
                loss_sum=work.base.loss_sum + value * seen,
                loss_count=work.base.loss_count + seen,
            )
            return MoreauWork(base, center)

        def finish(
            ctx: Context, work: MoreauWork, received: Model, row: Kept, data: ClientData
        ) -> tuple[Report, Kept]:
            theta = work.base.model
            moved = work.base._replace(model=Model(work.center, theta.state))
            report, _ = base.finish(ctx, moved, received, (), data)
            return report, keep(row, theta, base.steps(ctx, data))

        return ClientUpdate(lambda key, model: unbegun(model), base.steps, start, step, finish)

    return build
