"""Clients that train a model to be good after one step of adaptation (Per-FedAvg)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.clients.sgd import LocalWork, Weighting, local, loss_and_gradient
from fedjax_sim.core import keys, tree
from fedjax_sim.core.checks import choice, integer
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Model, PyTree
from fedjax_sim.data.batching import Batches, ClientData

HESSIANS = ("none", "exact", "difference")


def meta(
    optimizer: Any,
    adapt_rate: Array | float,
    batches: Batches | None = None,
    *,
    hessian: str = "none",
    delta: Array | float = 1e-3,
    draws: int = 3,
    weighting: Weighting = "uniform",
) -> Callable[[Task], ClientUpdate]:
    """Local steps on `F(w) = f(w - alpha grad f(w))`, with up to three batches a step.

    `g = grad f(w - alpha grad f(w; D); D')` and `w <- w - opt(g - alpha H(w; D'') g)`, H the
    Hessian.

    Args:
      optimizer: any optax transformation; it starts anew each round.
      adapt_rate: alpha.
      batches: how many local steps, and B.
      hessian: `none` leaves the term with H out (first order); `exact` is its product by a
        directional derivative; `difference` by two gradients,
        `H g ~ (grad f(w + delta g) - grad f(w - delta g)) / (2 delta)`.
      delta: of the difference.
      draws: batches of B a local step: 1 takes D = D' = D'', 2 takes D'' = D', 3 are all apart.
        They follow one another in the client's shuffle, over the ends of epochs. With all of a
        client's examples in one batch, the three are that.
      weighting: see `clients.sgd.weigh`.

    Returns:
      `Task -> ClientUpdate`, stateless; reports as `clients.sgd.local`. The loss told is of w.

    Cost: gradients a local step: 2, `exact` about 4, `difference` 4; memory one model more.
    """
    choice("algorithm.hessian", hessian, HESSIANS)
    integer("algorithm.draws", draws, least=1, most=3)
    rule = batches or Batches()
    parts = 1 if rule.size is None else min(draws, 2) if hessian == "none" else draws
    base_of = local(optimizer, rule, weighting=weighting)
    opt = optax.with_extra_args_support(optimizer)

    def build(task: Task) -> ClientUpdate:
        base = base_of(task)

        def start(ctx: Context, received: Model, row: PyTree, data: ClientData) -> LocalWork:
            work = base.start(ctx, received, row, data)
            words = keys.words(keys.for_purpose(ctx.key, keys.Purpose.SHUFFLE))
            return work._replace(feed=data.feed(_wide(rule, parts, data.longest), words))

        def direction(
            ctx: Context, t: Array, model: Model, given: tuple[Batch, ...]
        ) -> tuple[Array, PyTree, PyTree]:
            support, query, third = given
            value, state, first = loss_and_gradient(task, ctx, t, model, support)
            adapted = Model(_plus(model.params, first, -adapt_rate), state)
            grads = loss_and_gradient(task, ctx, t, adapted, query)[2]
            if hessian == "none":
                return value, state, grads

            def at(params: PyTree) -> PyTree:
                return loss_and_gradient(task, ctx, t, Model(params, model.state), third)[2]

            product = _product(at, model.params, grads, None if hessian == "exact" else delta)
            return value, state, _plus(grads, product, -adapt_rate)

        def step(
            ctx: Context, t: Array, work: LocalWork, received: Model, data: ClientData
        ) -> LocalWork:
            wide = _wide(rule, parts, data.longest)
            whole, feed = data.next(wide, work.feed, t)
            given = _cut(whole, parts)
            value, state, grads = direction(ctx, t, work.model, given)
            extra = {"anchor": received.params, "round": ctx.round, "step": t, "value": value}
            updates, after = opt.update(grads, work.opt, work.model.params, **extra)
            params = optax.apply_updates(work.model.params, updates)
            seen = jnp.sum(given[0].mask).astype(work.loss_count.dtype)
            return work._replace(
                model=Model(params, state),
                opt=tree.as_before(after, work.opt),
                feed=feed,
                loss_sum=work.loss_sum + (value * seen).astype(work.loss_sum.dtype),
                loss_count=work.loss_count + seen,
            )

        return base._replace(start=start, step=step)

    return build


def _wide(rule: Batches, parts: int, longest: int) -> Batches:
    """Batches that hold `parts` full batches of `rule`, as many as it has."""
    if parts == 1 or rule.size is None:
        return rule
    most = rule.most_steps(longest)
    steps = jnp.ones((), jnp.int32) if most is None else max(most, 1)  # traced: unknown
    return dataclasses.replace(rule, epochs=None, steps=steps, size=rule.size * parts, last="topup")


def _cut(batch: Batch, parts: int) -> tuple[Batch, ...]:
    """`(D, D', D'')` of one wide batch."""
    width = batch.mask.shape[0] // parts
    each = [
        jax.tree.map(lambda v, i=i: v[i * width : (i + 1) * width], batch) for i in range(parts)
    ]
    return tuple(each[min(i, parts - 1)] for i in range(3))


def _plus(a: PyTree, b: PyTree, factor: Array | float) -> PyTree:
    """`a + factor b`, in the types of `a`."""
    return jax.tree.map(lambda x, y: x + jnp.asarray(factor, x.dtype) * y, a, b)


def _product(
    gradient: Callable[[PyTree], PyTree], at: PyTree, along: PyTree, delta: Array | float | None
) -> PyTree:
    """The Hessian at `at` times `along`; exact where `delta` is None."""
    if delta is None:
        return jax.jvp(gradient, (at,), (along,))[1]
    above, below = (gradient(_plus(at, along, s * delta)) for s in (1, -1))
    return tree.scale(tree.sub(above, below), 0.5 / delta)
