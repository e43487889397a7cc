"""Do clients of one group pull one way? Cosines within and across groups, from sums."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Array


class Conflict(NamedTuple):
    """Mean cosines of pairs of clients' updates.

    Attributes:
      per_group: `[k]`, mean over pairs within each group; NaN with fewer than two members.
      within: `()`, mean over all pairs within any group; NaN without any.
      across: `()`, mean over all pairs of two groups; NaN without any.
      overall: `()`, mean over all pairs.
    """

    per_group: Array
    within: Array
    across: Array
    overall: Array


def conflict(updates: Any, ids: Any, k: int) -> Conflict:
    """Mean pairwise cosine within groups, across groups and over all, without N x N.

    With unit vectors u_i the cosines of all ordered pairs of a group sum to
    `|sum_i u_i|^2 - n`; pairs across are what all clients together have beyond that. Good groups
    have `within` well above `across`. Works in jit and vmap.

    Args:
      updates: `[N, d]`, updates or sketches of them; zero or not finite rows are left out.
      ids: int32 `[N]`; -1 is left out.
      k: groups.

    Cost: O(N d + k d).
    """
    return _conflict(*_checked(updates, ids), k)


@functools.partial(jax.jit, static_argnames="k")
def _conflict(updates: Array, ids: Array, k: int) -> Conflict:
    unit, counted = _units(updates, ids)
    counted = counted & (ids < k)
    belongs = ((ids[None] == jnp.arange(k)[:, None]) & counted[None]).astype(unit.dtype)
    sums = jnp.matmul(belongs, unit, precision=jax.lax.Precision.HIGHEST)
    n = jnp.sum(belongs, axis=1)
    inner = jnp.sum(jnp.square(sums), axis=1) - n
    pairs = n * (n - 1)
    total, everyone = jnp.sum(sums, axis=0), jnp.sum(n)
    whole = jnp.sum(jnp.square(total)) - everyone
    all_pairs = everyone * (everyone - 1)
    return Conflict(
        _ratio(inner, pairs),
        _ratio(jnp.sum(inner), jnp.sum(pairs)),
        _ratio(whole - jnp.sum(inner), all_pairs - jnp.sum(pairs)),
        _ratio(whole, all_pairs),
    )


def negative_share(
    key: Array, updates: Any, ids: Any, k: int, *, pairs: int | None = 4096
) -> Array:
    """The share of pairs within groups whose updates point apart (cosine below 0), `()`.

    Args:
      key: draws the pairs.
      updates: `[N, d]`; zero or not finite rows are left out.
      ids: int32 `[N]`; -1 is left out.
      k: groups.
      pairs: pairs drawn with replacement, uniform over all pairs within groups: a standard
        error of at most `1 / (2 sqrt(pairs))`. None looks at every pair: N^2 memory.

    Returns:
      A share in [0, 1]; NaN where no group has two clients.

    Cost: O(N log N + pairs d).
    """
    return _negative_share(key, *_checked(updates, ids), k, pairs)


@functools.partial(jax.jit, static_argnames=("k", "pairs"))
def _negative_share(key: Array, updates: Array, ids: Array, k: int, pairs: int | None) -> Array:
    unit, counted = _units(updates, ids)
    ids = jnp.where(counted & (ids < k), ids, -1)
    if pairs is None:
        same = (ids[:, None] == ids[None]) & (ids >= 0)[:, None]
        same = same & ~jnp.eye(ids.shape[0], dtype=bool)
        cosines = jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)
        return _ratio(jnp.sum(same & (cosines < 0)), jnp.sum(same))
    # Group by group: the m-th member of group g stands at first[g] + m.
    order = jnp.argsort(jnp.where(ids < 0, k, ids))
    sizes = jnp.zeros(k, jnp.int32).at[jnp.maximum(ids, 0)].add((ids >= 0).astype(jnp.int32))
    first = jnp.cumsum(sizes) - sizes
    weight = sizes.astype(unit.dtype) * (sizes - 1).astype(unit.dtype)
    by_group, by_one, by_other = (jax.random.fold_in(key, i) for i in range(3))
    group = jax.random.categorical(by_group, jnp.log(weight), shape=(pairs,))
    n, begin = sizes[group], first[group]
    one = jax.random.randint(by_one, (pairs,), 0, jnp.maximum(n, 1))
    step = jax.random.randint(by_other, (pairs,), 1, jnp.maximum(n, 2))
    other = (one + step) % jnp.maximum(n, 1)
    a, b = order[begin + one], order[begin + other]
    apart = jnp.sum(unit[a] * unit[b], axis=1) < 0
    return jnp.where(jnp.sum(weight) > 0, jnp.mean(apart, dtype=unit.dtype), jnp.nan)


def _checked(updates: Any, ids: Any) -> tuple[Array, Array]:
    updates, ids = jnp.asarray(updates), jnp.asarray(ids)
    if updates.ndim != 2 or ids.shape != updates.shape[:1]:
        raise InputError("updates", f"shape {updates.shape}", "must be [N, d] with ids [N]")
    return updates, ids


def _units(updates: Array, ids: Array) -> tuple[Array, Array]:
    """Rows of norm 1, zero where they do not count, and which count."""
    norm = jnp.sqrt(jnp.sum(jnp.square(updates), axis=1))
    counted = jnp.isfinite(norm) & (norm > 0) & (ids >= 0)
    safe = jnp.where(counted, norm, 1)[:, None]
    return jnp.where(counted[:, None], updates / safe, 0), counted


def _ratio(sum_: Array, count: Array) -> Array:
    return jnp.where(count > 0, sum_ / jnp.where(count > 0, count, 1), jnp.nan)
