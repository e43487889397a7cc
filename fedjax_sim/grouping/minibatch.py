"""k-means from small random batches of clients: for millions of them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.core.checks import integer
from fedjax_sim.core.types import Array
from fedjax_sim.grouping.kmeans import nearest_center
from fedjax_sim.grouping.lloyd import look, nearest, plus_plus
from fedjax_sim.grouping.types import Grouper, Groups, features, settled


def minibatch_kmeans(k: int, *, batch: int = 1024, steps: int = 200) -> Grouper:
    """k-means by stochastic steps, each over a few clients, and one look at all at the end.

    Every step draws `batch` present clients, assigns them, and moves each center to the mean
    of all clients that it was ever given: Sculley's rate of one over that count, client by client,
    is this mean exactly. Seeds by k-means++ on `3 batch` clients. A center that no batch reaches
    stays where it was seeded. Works in jit and vmap.

    Args:
      k: groups.
      batch: clients a step, drawn with replacement.
      steps: their number.

    Returns:
      A `Grouper` of features; info as of `kmeans`.

    Cost: `2 batch k d` operations a step, `2 N k d` at the end. Inertia a few percent above
      `kmeans`.
    Reference: Sculley, Web-scale k-means clustering, 2010, algorithm 1.
    """
    integer("k", k, least=1)
    integer("batch", batch, least=1)
    integer("steps", steps, least=1)

    def fit(key: Array, x: Any, mask: Any = None) -> Groups:
        x, present = features(x, mask, k=k)
        return _fit(key, x, present, k, batch, steps)

    def assign(groups: Groups, x: Any) -> Array:
        x, present = features(x)
        return nearest_center(x, present, groups.info["centers"])

    return Grouper(fit, "features", assign, host=False)


@functools.partial(jax.jit, static_argnames=("k", "batch", "steps"))
def _fit(key: Array, x: Array, mask: Array, k: int, batch: int, steps: int) -> Groups:
    order = jnp.argsort(~mask, stable=True)
    there = jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1)
    # About one row of them all, so that a common offset costs no digits.
    middle = x[order[0]]

    def some(key: Array, count: int) -> Array:
        return x[order[jax.random.randint(key, (count,), 0, there)]] - middle[None]

    def step(t: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return absorb(*carry, some(jax.random.fold_in(key, t + 2), batch))

    first = some(jax.random.fold_in(key, 0), max(3 * batch, k))
    start = plus_plus(jax.random.fold_in(key, 1), first, jnp.ones(first.shape[0], bool), k)
    counts = jnp.zeros(k, x.dtype)
    centers = jax.lax.fori_loop(0, steps, step, (start, counts))[0] + middle[None]
    seen = look(x, mask, centers, sums=False)
    return settled(
        seen.ids,
        mask,
        k,
        centers=centers,
        inertia=jnp.sum(seen.square),
        iterations=jnp.asarray(steps, jnp.int32),
    )


def absorb(centers: Array, counts: Array, rows: Array) -> tuple[Array, Array]:
    """Centers `[k, d]` and counts `[k]` after one batch of rows `[b, d]`: running means.

    Each row moves the center that was nearest before the batch by one over the center's new count.
    """
    ids, _ = nearest(rows, centers)
    belongs = (ids[None] == jnp.arange(centers.shape[0])[:, None]).astype(rows.dtype)
    new = counts + jnp.sum(belongs, axis=1)
    sums = jnp.matmul(belongs, rows, precision=jax.lax.Precision.HIGHEST)
    means = (counts[:, None] * centers + sums) / jnp.maximum(new, 1)[:, None]
    return jnp.where((new > counts)[:, None], means, centers), new
