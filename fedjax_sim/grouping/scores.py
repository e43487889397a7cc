"""How well two groupings agree: ARI, NMI, purity; pure functions that run in jit.

Clients that either grouping leaves out (id -1) are ignored.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.types import Array
from fedjax_sim.grouping.types import is_traced


def contingency(a: Any, b: Any, n_a: int, n_b: int) -> Array:
    """How many clients are in group i of `a` and group j of `b`: int32 `[n_a, n_b]`.

    Args:
      a: int32 `[N]`, ids below `n_a`; -1 is ignored.
      b: int32 `[N]`, ids below `n_b`; -1 is ignored.
      n_a: groups of `a`.
      n_b: groups of `b`.

    Raises:
      InputError: shapes differ, or a concrete id is at or above its count. In jit such a client
        is ignored.
    Cost: O(N) scatter, `n_a n_b` memory.
    """
    a, b = _ids("a", a, n_a), _ids("b", b, n_b)
    if a.shape != b.shape:
        raise InputError("b", f"shape {b.shape}", f"must be shaped like a: {a.shape}")
    return _contingency(a, b, n_a, n_b)


def ari(a: Any, b: Any, n_a: int, n_b: int) -> Array:
    """Adjusted Rand index of two groupings, `()`: 1 the same partition, 0 as by chance.

    Pairs of clients that both groupings put together, corrected for chance; symmetric, blind to
    the labels' names. Where neither splits a pair that the other keeps it is 1, also
    for nobody at all.

    Args:
      a: int32 `[N]` ids.
      b: int32 `[N]` ids.
      n_a: groups of `a`.
      n_b: groups of `b`.

    Cost: O(N + n_a n_b).
    Reference: Hubert and Arabie, Comparing partitions, 1985.

    Example:
      >>> import jax.numpy as jnp
      >>> float(ari(jnp.array([0, 0, 1, 1]), jnp.array([1, 1, 0, 0]), 2, 2))
      1.0
    """
    return _ari(contingency(a, b, n_a, n_b))


def nmi(a: Any, b: Any, n_a: int, n_b: int) -> Array:
    """Normalized mutual information `2 I(a, b) / (H(a) + H(b))`, `()` in [0, 1].

    Two groupings of a single group each, or of nobody, agree: 1.

    Args:
      a: int32 `[N]` ids.
      b: int32 `[N]` ids.
      n_a: groups of `a`.
      n_b: groups of `b`.

    Cost: O(N + n_a n_b).
    Reference: Vinh, Epps, Bailey, Information Theoretic Measures for Clusterings Comparison,
      2010; the arithmetic normalizer, as in scikit-learn.
    """
    return _nmi(contingency(a, b, n_a, n_b))


def purity(ids: Any, truth: Any, n_ids: int, n_truth: int) -> Array:
    """The share of clients that are of their group's most frequent true group, `()` in (0, 1].

    Not symmetric, and 1 for groups of one client: read it beside the number of groups.
    Nobody at all: 1.

    Args:
      ids: int32 `[N]`, the groups found.
      truth: int32 `[N]`, the groups planted.
      n_ids: groups found.
      n_truth: groups planted.

    Cost: O(N + n_ids n_truth).
    Reference: Manning, Raghavan, Schuetze, Introduction to Information Retrieval, 2008, 16.3.
    """
    return _purity(contingency(ids, truth, n_ids, n_truth))


def stability(now: Any, before: Any, k: int) -> Array:
    """ARI of two successive groupings into `k` groups over clients that both have, `()`."""
    return ari(now, before, k, k)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _contingency(a: Array, b: Array, n_a: int, n_b: int) -> Array:
    both = (a >= 0) & (b >= 0) & (a < n_a) & (b < n_b)
    cell = jnp.where(both, a * n_b + b, 0)
    return jnp.zeros(n_a * n_b, jnp.int32).at[cell].add(both.astype(jnp.int32)).reshape(n_a, n_b)


@jax.jit
def _ari(table: Array) -> Array:
    n = table.astype(jnp.result_type(float))
    row, column = jnp.sum(n, axis=1), jnp.sum(n, axis=0)
    together, same_a, same_b = _pairs(n), _pairs(row), _pairs(column)
    every = jnp.maximum(_pairs(jnp.sum(n)), 1)
    expected = same_a / every * same_b
    # Decided on whole numbers: in float32 the sums of squares of many clients are rounded.
    filled = (table > 0).astype(jnp.int32)
    identical = jnp.all(jnp.sum(filled, axis=1) <= 1) & jnp.all(jnp.sum(filled, axis=0) <= 1)
    spread = jnp.where(identical, 1, (same_a + same_b) / 2 - expected)
    return jnp.where(identical, 1, (together - expected) / spread)


@jax.jit
def _nmi(table: Array) -> Array:
    shares = _shares(table)
    row, column = jnp.sum(shares, axis=1), jnp.sum(shares, axis=0)
    outer = row[:, None] * column[None]
    ratio = jnp.where(shares > 0, shares, 1) / jnp.where(shares > 0, outer, 1)
    information = jnp.sum(jnp.where(shares > 0, shares * jnp.log(ratio), 0))
    normalizer = (_entropy(row) + _entropy(column)) / 2
    tiny = jnp.finfo(shares.dtype).eps
    share = jnp.maximum(information, 0) / jnp.where(normalizer > 0, normalizer, 1)
    answer = jnp.where(information <= tiny, 0, share)
    single = (jnp.sum(row > 0) <= 1) & (jnp.sum(column > 0) <= 1)
    return jnp.where(single, 1, answer)


@jax.jit
def _purity(table: Array) -> Array:
    shares = _shares(table)
    return jnp.where(jnp.sum(shares) > 0, jnp.sum(jnp.max(shares, axis=1)), 1)


def _pairs(count: Array) -> Array:
    """Ordered pairs within groups of these many, summed."""
    return jnp.sum(count * (count - 1))


def _shares(table: Array) -> Array:
    """A contingency table over its sum; zeros where it is empty."""
    counts = table.astype(jnp.result_type(float))
    return counts / jnp.maximum(jnp.sum(counts), 1)


def _entropy(shares: Array) -> Array:
    return -jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1)), 0))


def _ids(field: str, ids: Any, n: int) -> Array:
    integer(f"n_{field}", n, least=1)
    ids = jnp.asarray(ids)
    if ids.ndim != 1 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise InputError(field, f"{ids.dtype}{list(ids.shape)}", "must be whole numbers [N]")
    if ids.size and not is_traced(ids) and int(np.asarray(ids).max()) >= n:
        raise InputError(field, int(np.asarray(ids).max()), f"ids must be below n_{field} = {n}")
    return ids.astype(jnp.int32)
