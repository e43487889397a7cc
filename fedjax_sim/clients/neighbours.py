"""Clients that begin with a mixture of other clients' models (FedAMP)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.clients.sgd import LocalWork
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import ClientData

Client = Callable[[Task], ClientUpdate]
Origin = Callable[[Context, Any], tuple[Model, dict[str, Array]]]
"""`(ctx, received) -> (model to begin with, {name: value to tell})`."""


class BegunWork(NamedTuple):
    """Training, the model that it began with, and what the report tells besides."""

    base: LocalWork
    origin: Model
    told: dict[str, Array]


def begins_with(
    client: Client, origin: Origin, window: Callable[[ClientData], ClientData] = lambda data: data
) -> Client:
    """Train a model that is made once, and report how the client's own last model changed.

    Args:
      client: `clients.sgd.local`; its anchor is the model that it begins with.
      origin: see `Origin`.
      window: the part of the client's examples that it trains on.

    Returns:
      `Task -> ClientUpdate` that receives something with `.models` `[N, ...]`. A client without a
      local step reports nothing. `aux["client"]` is its id.

    Cost: a lane carries one model more than `client`'s.
    """

    def build(task: Task) -> ClientUpdate:
        base = client(task)

        def steps(ctx: Context, data: ClientData) -> Array:
            return base.steps(ctx, window(data))

        def start(ctx: Context, received: Any, row: PyTree, data: ClientData) -> BegunWork:
            del row
            model, told = origin(ctx, received)
            model = tree.as_before(model, tree.take(received.models, ctx.member.id))
            return BegunWork(base.start(ctx, model, (), window(data)), model, told)

        def step(
            ctx: Context, t: Array, work: BegunWork, received: Any, data: ClientData
        ) -> BegunWork:
            del received
            return work._replace(base=base.step(ctx, t, work.base, work.origin, window(data)))

        def finish(
            ctx: Context, work: BegunWork, received: Any, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            said, _ = base.finish(ctx, work.base, work.origin, (), window(data))
            own = tree.take(received.models, ctx.member.id)
            update = tree.sub(own, work.base.model)
            weight = jnp.where(steps(ctx, data) > 0, said.weight, 0)
            aux = said.aux | work.told | {"client": ctx.member.id}
            return said._replace(update=update, weight=weight, aux=aux), row

        return ClientUpdate(base.init, steps, start, step, finish)

    return build


def mix(models: Model, weights: Array, at: Array | None = None) -> Model:
    """`sum_j weights_j models_j` over leaves `[N, ...]`, or over those at int `[M]`.

    Leaves that are no floats are rounded sums.
    """

    def one(rows: Array) -> Array:
        rows = rows if at is None else rows[at]
        exact = jnp.issubdtype(rows.dtype, jnp.floating)
        flat = (rows if exact else rows.astype(weights.dtype)).reshape(rows.shape[0], -1)
        w = weights.astype(flat.dtype)
        total = jnp.matmul(w[None], flat, precision=jax.lax.Precision.HIGHEST)[0]
        total = total.reshape(rows.shape[1:])
        return total if exact else jnp.round(total).astype(rows.dtype)

    return jax.tree.map(one, models)


def squared_distances(params: PyTree, others: PyTree) -> Array:
    """`|params - others_j|^2` `[N]` of leaves `[N, ...]`.

    Differences first: norms and products would lose the small ones.
    """

    def one(x: Array, rows: Array) -> Array:
        away = (rows - x[None]).astype(float)
        return jnp.sum(jnp.square(away).reshape(rows.shape[0], -1), axis=1)

    return sum(jax.tree.leaves(jax.tree.map(one, params, others)), start=jnp.zeros(()))


def by_distance(alpha: Array | float, sigma: Array | float) -> Origin:
    """FedAMP's mixture: `xi_ij = alpha / sigma exp(-|w_i - w_j|^2 / sigma)`, the rest to oneself.

    Others are those who ever reported. Where their weights add up to more than 1 they are
    scaled to 1, so that no client's own weight is negative.
    """

    def weights(alike: PyTree, own: Model, ctx: Context) -> Array:
        far = squared_distances(own.params, alike.models.params)
        raw = alpha / sigma * jnp.exp(-far / sigma)
        raw = jnp.where(others_of(alike, ctx), raw, 0)
        return raw / jnp.maximum(jnp.sum(raw), 1)

    return _attending(weights)


def by_cosine(own_share: Array | float, sigma: Array | float) -> Origin:
    """HeurFedAMP's mixture: `own_share` of one's own, the rest by `softmax(sigma cos(w_i, w_j))`.

    Others are those who ever reported; a client that has none keeps its own.
    """

    def weights(alike: PyTree, own: Model, ctx: Context) -> Array:
        here = others_of(alike, ctx)
        cosine = _cosines(own.params, alike.models.params)
        nearest = jnp.max(jnp.where(here, cosine, -1))
        raw = jnp.where(here, jnp.exp(sigma * (cosine - nearest)), 0)
        total = jnp.sum(raw)
        return (1 - own_share) * raw / jnp.where(total > 0, total, 1)

    return _attending(weights)


def _attending(weights: Callable[[Any, Model, Context], Array]) -> Origin:
    def origin(ctx: Context, received: Any) -> tuple[Model, dict[str, Array]]:
        me = ctx.member.id
        others = weights(received, tree.take(received.models, me), ctx)
        kept = 1 - jnp.sum(others)
        return mix(received.models, others.at[me].set(kept)), {"own_share": kept}

    return origin


def others_of(table: Any, ctx: Context) -> Array:
    """Bool `[N]`: who ever reported, but for oneself."""
    ids = jnp.arange(table.known.shape[0], dtype=jnp.int32)
    return table.known & (ids != ctx.member.id)


def _cosines(params: PyTree, others: PyTree) -> Array:
    def sums(x: Array, rows: Array) -> tuple[Array, Array]:
        flat = rows.reshape(rows.shape[0], -1).astype(float)
        product = jnp.sum(flat * x.reshape(1, -1).astype(float), axis=1)
        return product, jnp.sum(jnp.square(flat), axis=1)

    pairs = [sums(*p) for p in zip(*map(jax.tree.leaves, (params, others)), strict=True)]
    product, squares = (sum(part) for part in zip(*pairs, strict=True))
    mine = jnp.sqrt(tree.squared_norm(params).astype(float))
    return product / jnp.maximum(mine * jnp.sqrt(squares), jnp.finfo(mine.dtype).tiny)
