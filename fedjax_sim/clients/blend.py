"""Clients that learn how much of the shared model to take, number by number (FedALA)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.clients.kept import Kept, keep, own_model, unbegun
from fedjax_sim.clients.sgd import LocalWork, Weighting, local, loss_and_gradient
from fedjax_sim.core import keys, parts, tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.parts import Rule
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData, Feed

Leaves = tuple[Array, ...]


class Blend(NamedTuple):
    """A client's row: its last model, and the weights of the blended leaves, in [0, 1]."""

    kept: Kept
    weights: Leaves


class BlendWork(NamedTuple):
    """What a client carries between local steps.

    Attributes:
      local: training, once it has begun.
      own: the blended leaves of the client's last model.
      weights: theirs.
      feed: which examples come next while weights are learned.
    """

    local: LocalWork
    own: Leaves
    weights: Leaves
    feed: Feed


def blending(
    optimizer: Any,
    rule: Rule,
    rate: Array | float,
    share: Array | float,
    batches: Batches,
    *,
    passes: Batches,
    weighting: Weighting = "examples",
) -> Callable[[Task], ClientUpdate]:
    """Learn weights W, begin with `own + W (shared - own)`, then train and report as FedAvg does.

    Only the leaves of `rule` are blended; the others are the shared model's. A step of W is
    `W <- clip(W - rate grad f_i(blend) (shared - own), 0, 1)`. In a client's first round there is
    nothing to blend, and W stays 1.

    Args:
      optimizer: of local training (optax).
      rule: of params, see `core.parts.Rule`.
      rate: eta of W.
      share: of the steps of `passes`, the first ones: a random part of the examples.
      batches: how examples become local steps.
      passes: how they become steps of W; a straggler makes them all.
      weighting: see `clients.sgd.weigh`.

    Returns:
      `Task -> ClientUpdate` with a `Blend` row.

    Cost: a gradient for each step of W; a row is a model and W; a lane carries twice the blended
      leaves more than `local`.
    """
    of = parts.masked(rule, field="algorithm.blended")
    train = local(optimizer, batches, weighting=weighting)

    def build(task: Task) -> ClientUpdate:
        base = train(task)

        def first(ctx: Context, data: ClientData) -> Array:
            return jnp.ceil(passes.count(data.size, data.longest) * share - 1e-6).astype(jnp.int32)

        def steps(ctx: Context, data: ClientData) -> Array:
            return first(ctx, data) + base.steps(ctx, data)

        def start(ctx: Context, received: Model, row: Blend, data: ClientData) -> BlendWork:
            where = of(received.params)
            own = parts.pick(own_model(row.kept, received).params, where)
            draw = keys.words(keys.for_purpose(ctx.key, keys.Purpose.SAMPLE))
            begun = base.start(ctx, received, (), data)
            return BlendWork(begun, own, row.weights, data.feed(passes, draw))

        def step(
            ctx: Context, t: Array, work: BlendWork, received: Model, data: ClientData
        ) -> BlendWork:
            n, where = first(ctx, data), of(received.params)
            mixed = blended(received, where, work.own, work.weights)

            def learn(work: BlendWork) -> BlendWork:
                batch, feed = data.next(passes, work.feed, t)
                apart = ctx._replace(key=keys.for_purpose(ctx.key, keys.Purpose.SAMPLE))
                _, _, grads = loss_and_gradient(task, apart, t, mixed, batch)
                moved = _moved(work, parts.pick(grads, where), _there(received, where), rate)
                return work._replace(weights=moved, feed=feed)

            def use(work: BlendWork) -> BlendWork:
                begin = lambda: tree.strong(base.start(ctx, mixed, (), data))  # noqa: E731
                now = jax.lax.cond(t == n, begin, lambda: work.local)
                return work._replace(local=base.step(ctx, t - n, now, received, data))

            return jax.lax.cond(t < n, learn, use, work)

        def finish(
            ctx: Context, work: BlendWork, received: Model, row: Blend, data: ClientData
        ) -> tuple[Report, Blend]:
            report, _ = base.finish(ctx, work.local, received, (), data)
            kept = keep(row.kept, work.local.model, base.steps(ctx, data))
            return report, Blend(kept, work.weights)

        return ClientUpdate(lambda key, model: _first_row(model, of), steps, start, step, finish)

    return build


def _first_row(model: Model, of: Callable[[PyTree], PyTree]) -> Blend:
    leaves = parts.pick(model.params, of(model.params))
    return Blend(unbegun(model), tuple(jnp.ones_like(x) for x in leaves))


def blended(shared: Model, where: PyTree, own: Leaves, weights: Leaves) -> Model:
    """`own + W (shared - own)` where the mask is True, the shared model elsewhere."""
    mixed = [o + w * (s - o) for o, w, s in zip(own, weights, _there(shared, where), strict=True)]
    return shared._replace(params=parts.put(shared.params, where, mixed))


def _there(model: Model, where: PyTree) -> Leaves:
    return parts.pick(model.params, where)


def _moved(work: BlendWork, grads: Leaves, shared: Leaves, rate: Array | float) -> Leaves:
    return tuple(
        jnp.clip(w - jnp.asarray(rate, w.dtype) * g * (s - o), 0, 1)
        for w, g, s, o in zip(work.weights, grads, shared, work.own, strict=True)
    )
