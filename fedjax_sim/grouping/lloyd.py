"""The parts of k-means that meet every client: assignment, sums, seeding; in blocks of rows.

One pass costs one product `[rows, d] x [d, k]` a block for the distances and one
`[k, rows] x [rows, d]` for the sums, and never holds more than a block beside the features.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core.types import Array

BLOCK_ENTRIES = 1 << 20
"""Features a block holds: about 4 MB in float32."""
_EXACT = jax.lax.Precision.HIGHEST  # an accelerator's default product rounds to 10 bits


class Pass(NamedTuple):
    """One look at every client.

    Attributes:
      ids: int32 `[N]`, the nearest center; 0 for absent clients.
      square: `[N]`, squared distance to it; 0 for absent clients.
      sums: `[k, d]`, sum of each group's rows.
      counts: `[k]`, float, present clients of each group.
    """

    ids: Array
    square: Array
    sums: Array
    counts: Array


def rows_per_block(n: int, d: int) -> int:
    """Rows of a block: about `BLOCK_ENTRIES` entries, at least 256 rows, at most all."""
    return min(n, max(256, BLOCK_ENTRIES // max(d, 1)))


def look(x: Array, mask: Array, centers: Array, *, sums: bool = True) -> Pass:
    """Assign every client to its nearest center (the first of equals) and sum the groups.

    Args:
      x: `[N, d]`.
      mask: bool `[N]`; absent rows must be finite.
      centers: `[k, d]`.
      sums: also sum the rows of each group; zeros otherwise.

    Cost: `4 N k d` operations (half without sums); memory of one block.
    """
    n, d = x.shape
    k, size = centers.shape[0], rows_per_block(n, d)
    empty = Pass(
        jnp.zeros(n, jnp.int32),
        jnp.zeros(n, x.dtype),
        jnp.zeros((k, d), x.dtype),
        jnp.zeros(k, x.dtype),
    )

    def block(i: Array, so_far: Pass) -> Pass:
        # The last block ends with the last row and overlaps the one before.
        start = jnp.minimum(i * size, n - size)
        rows = jax.lax.dynamic_slice_in_dim(x, start, size)
        fresh = start + jnp.arange(size) >= i * size
        counted = jax.lax.dynamic_slice_in_dim(mask, start, size) & fresh
        ids, square = nearest(rows, centers)
        ids = jnp.where(jax.lax.dynamic_slice_in_dim(mask, start, size), ids, 0)
        there = jax.lax.dynamic_slice_in_dim(mask, start, size)
        square = jnp.where(there, square, 0)
        sums_, counts = so_far.sums, so_far.counts
        if sums:
            belongs = (ids[None] == jnp.arange(k)[:, None]) & counted[None]
            belongs = belongs.astype(x.dtype)
            sums_ = sums_ + jnp.matmul(belongs, rows, precision=_EXACT)
            counts = counts + jnp.sum(belongs, axis=1)
        return Pass(
            jax.lax.dynamic_update_slice_in_dim(so_far.ids, ids, start, 0),
            jax.lax.dynamic_update_slice_in_dim(so_far.square, square, start, 0),
            sums_,
            counts,
        )

    return jax.lax.fori_loop(0, -(-n // size), block, empty)


def nearest(rows: Array, centers: Array) -> tuple[Array, Array]:
    """The nearest of `centers` `[k, d]`, int32 `[n]`, and the squared distance `[n]`."""
    square = squared_distances(rows, centers)
    return jnp.argmin(square, axis=1).astype(jnp.int32), jnp.min(square, axis=1)


def squared_distances(rows: Array, centers: Array) -> Array:
    """`|x - c|^2`, `[n, k]`, by one product; rounding below zero is cut off."""
    product = jnp.matmul(rows, centers.T, precision=_EXACT)
    lengths = jnp.sum(jnp.square(rows), axis=1)[:, None]
    return jnp.maximum(lengths - 2 * product + jnp.sum(jnp.square(centers), axis=1)[None], 0)


def plus_plus(key: Array, x: Array, mask: Array, k: int) -> Array:
    """Greedy k-means++ centers `[k, d]`: each next one drawn by its squared distance.

    Of `2 + log k` candidates drawn in proportion to the squared distance from the centers so
    far, the one that leaves the smallest sum is taken. Where all present clients lie on the
    centers already, a present client is repeated.

    Args:
      key: for the draws.
      x: `[N, d]`.
      mask: bool `[N]`.
      k: centers.

    Cost: `2 N k d (2 + log k)` operations, `N (2 + log k)` memory.
    Reference: Arthur and Vassilvitskii, k-means++: The Advantages of Careful Seeding, 2007;
      the greedy form is theirs too (section 7) and scikit-learn's.
    """
    trials = 2 + k.bit_length() * 7 // 10  # about 2 + ln k
    weight = mask.astype(x.dtype)

    def add(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        centers, square = carry
        # The first by chance; and where no distance is left to draw by, any present client.
        even = (j == 0) | (jnp.sum(square) == 0)
        drawn = _draw(jax.random.fold_in(key, j), jnp.where(even, weight, square), trials)
        reached = jnp.minimum(_to_centers(x, mask, x[drawn]), square[:, None])
        best = jnp.where(j == 0, 0, jnp.argmin(jnp.sum(reached, axis=0)))
        return centers.at[j].set(x[drawn[best]]), reached[:, best]

    far = jnp.full(x.shape[0], jnp.inf, x.dtype)
    return jax.lax.fori_loop(0, k, add, (jnp.zeros((k, x.shape[1]), x.dtype), far))[0]


def _to_centers(x: Array, mask: Array, centers: Array) -> Array:
    """Squared distances `[N, k]` of all rows, 0 for absent ones, block by block."""
    n, d = x.shape
    size = rows_per_block(n, d)

    def block(i: Array, out: Array) -> Array:
        start = jnp.minimum(i * size, n - size)
        rows = jax.lax.dynamic_slice_in_dim(x, start, size)
        there = jax.lax.dynamic_slice_in_dim(mask, start, size)
        square = jnp.where(there[:, None], squared_distances(rows, centers), 0)
        return jax.lax.dynamic_update_slice_in_dim(out, square, start, 0)

    out = jnp.zeros((n, centers.shape[0]), x.dtype)
    return jax.lax.fori_loop(0, -(-n // size), block, out)


def _draw(key: Array, weight: Array, count: int) -> Array:
    """`count` indices with replacement, in proportion to `weight` `[N]` >= 0."""
    total = jnp.cumsum(weight)
    at = jax.random.uniform(key, (count,), weight.dtype) * total[-1]
    drawn = jnp.minimum(jnp.searchsorted(total, at, side="right"), weight.shape[0] - 1)
    # Rounding at a plateau's edge may name a row of weight zero.
    return jnp.where(weight[drawn] > 0, drawn, jnp.argmax(weight))
