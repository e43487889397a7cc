"""Whether groups of directions are apart: a silhouette by centers, in the program."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_sim.core.types import Array
from fedjax_sim.grouping.types import sizes_of


def silhouette(unit: Array, ids: Array, m: int) -> Array:
    """How much nearer clients are to their own group than to the next one, mean, `()` in [-1, 1].

    `(b - a) / max(a, b)` for each client, a and b being 1 - cosine to the mean direction of
    its own group without it, and to the nearest other group's. A client alone in its group counts
    0. About 0.1 where there are no groups, for k-means finds some in noise too.
    Unlike `grouping.count.simplified_silhouette` it leaves each client out of its own center, which
    in small groups would be near it for that alone.

    Args:
      unit: rows `[N, d]` of norm 1.
      ids: int32 `[N]`; of -1 are not looked at.
      m: M; of one group alone the answer is 1.

    Cost: O(N M d).
    Reference: Rousseeuw, Silhouettes, 1987; by centers as Hruschka et al., 2004.
    """
    if m == 1:
        return jnp.ones((), unit.dtype)
    sums, at = sums_of(unit, ids, m), jnp.maximum(ids, 0)
    sizes = sizes_of(ids, m)
    mine = jnp.sum(unit_rows(sums[at] - unit) * unit, axis=1)
    exact = jax.lax.Precision.HIGHEST
    others = jnp.matmul(unit, unit_rows(sums).T, precision=exact)
    counts = (sizes > 0)[None] & (at[:, None] != jnp.arange(m)[None])
    next_best = jnp.max(jnp.where(counts, others, -1), axis=1)
    a, b = 1 - mine, 1 - next_best
    each = (b - a) / jnp.maximum(jnp.maximum(a, b), jnp.finfo(unit.dtype).tiny)
    each = jnp.where((ids >= 0) & (sizes[at] > 1), each, 0)
    return jnp.sum(each) / jnp.maximum(jnp.sum(ids >= 0), 1)


def sums_of(unit: Array, ids: Array, m: int) -> Array:
    """Each group's sum of rows, `[M, d]`; a product with 0 and 1, exact on accelerators too."""
    belongs = (ids[None] == jnp.arange(m)[:, None]).astype(unit.dtype)
    return jnp.matmul(belongs, unit, precision=jax.lax.Precision.HIGHEST)


def unit_rows(x: Array) -> Array:
    """Rows `[N, d]` scaled to norm 1; a row of zeros stays one."""
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=1, keepdims=True))
    return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), 0)
