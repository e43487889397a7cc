"""Clients that were not there, and groups whose names last: assignment without a new fit."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.types import Array
from fedjax_sim.grouping.kmeans import nearest_center
from fedjax_sim.grouping.scores import contingency
from fedjax_sim.grouping.types import NONE, Grouper, Groups, features, refuse_tracing, sizes_of

PER_GROUP = ("centers", "sizes", "shares", "variances")
"""Entries of `info` with the leading axis `[k]`."""
PER_COLUMN = ("memberships",)
"""Entries of `info` of shape `[N, k]`."""


def to_centers(x: Any, centers: Array, *, metric: str = "euclidean") -> Array:
    """The nearest center of each new client: int32 `[n]`; -1 where features are not finite.

    Args:
      x: features `[n, d]` of clients that need not have been in the fit.
      centers: `[k, d]`, e.g. `groups.info["centers"]`.
      metric: `"euclidean"`, or `"cosine"` with centers of norm 1.

    Cost: `2 n k d` operations.
    """
    table, mask = features(x)
    return nearest_center(table, mask, centers, metric == "cosine")


@functools.partial(jax.jit, static_argnames="k")
def to_groups(similarity: Any, ids: Any, k: int) -> Array:
    """The group that each new client is most like on average: int32 `[n]`.

    Args:
      similarity: `[n, N]`, new clients to those in the groups.
      ids: int32 `[N]`; -1 counts nowhere.
      k: groups; an empty one takes nobody. With no group at all the answer is -1.

    Cost: `2 n N k` operations.
    """
    similarity, ids = jnp.asarray(similarity), jnp.asarray(ids)
    if similarity.ndim != 2 or similarity.shape[1] != ids.shape[0]:
        shape = f"must be [n, {ids.shape[0]}], one column a client of the groups"
        raise InputError("similarity", f"shape {similarity.shape}", shape)
    belongs = (ids[:, None] == jnp.arange(k)[None]).astype(similarity.dtype)
    used = jnp.where((ids >= 0)[None], similarity, 0)
    count = jnp.sum(belongs, axis=0)
    mean = jnp.matmul(used, belongs, precision=jax.lax.Precision.HIGHEST)
    mean = mean / jnp.maximum(count, 1)[None]
    best = jnp.argmax(jnp.where((count > 0)[None], mean, -jnp.inf), axis=1)
    known = jnp.all(jnp.isfinite(mean), axis=1) & jnp.any(count > 0)
    return jnp.where(known, best, NONE).astype(jnp.int32)


@jax.jit
def to_medoids(similarity: Any, medoids: Any) -> Array:
    """The medoid each new client is most like: int32 `[n]`.

    Args:
      similarity: `[n, N]`.
      medoids: int32 `[k]`, one client a group (see `medoids_of`); -1 for a group without.
    """
    medoids = jnp.asarray(medoids)
    picked = jnp.asarray(similarity)[:, jnp.maximum(medoids, 0)]
    best = jnp.argmax(jnp.where((medoids >= 0)[None], picked, -jnp.inf), axis=1)
    return jnp.where(jnp.any(medoids >= 0), best, NONE).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames="k")
def medoids_of(similarity: Any, ids: Any, k: int) -> Array:
    """The client of each group that is most like its group: int32 `[k]`, -1 where empty.

    Args:
      similarity: `[N, N]`.
      ids: int32 `[N]`.
      k: groups.

    Cost: `2 N^2 k` operations.
    """
    similarity, ids = jnp.asarray(similarity), jnp.asarray(ids)
    belongs = ids[:, None] == jnp.arange(k)[None]
    weight = belongs.astype(similarity.dtype)
    used = jnp.where((ids >= 0)[:, None] & (ids >= 0)[None], similarity, 0)
    total = jnp.matmul(used, weight, precision=jax.lax.Precision.HIGHEST)
    best = jnp.argmax(jnp.where(belongs, total, -jnp.inf), axis=0)
    return jnp.where(jnp.any(belongs, axis=0), best, NONE).astype(jnp.int32)


def rename(new: Any, old: Any, k: int) -> Array:
    """New ids under the old names, matched by overlap; greedy, runs in jit and vmap.

    Of all pairs of a new and an old group the one that shares most clients is matched first,
    then the next among those left. Names are a permutation of `0 .. k - 1`, so that new groups
    that overlap nothing get the names nobody uses.

    Args:
      new: int32 `[N]`, -1 stays -1.
      old: int32 `[N]`.
      k: groups, of both.

    Cost: O(N + k^3). Greedy keeps at least half of the largest possible overlap;
      `rename_best` keeps it all.
    """
    new = jnp.asarray(new)
    name = match_greedy(contingency(new, old, k, k))
    return jnp.where(new >= 0, name[jnp.maximum(new, 0)], NONE).astype(jnp.int32)


@jax.jit
def match_greedy(overlap: Array) -> Array:
    """For each row of `overlap` `[k, k]` its column: int32 `[k]`, a permutation."""
    k = overlap.shape[0]

    def step(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        left, name = carry
        flat = jnp.argmax(left)
        i, j = flat // k, flat % k
        return left.at[i].set(-1).at[:, j].set(-1), name.at[i].set(j.astype(jnp.int32))

    start = (overlap.astype(jnp.int32), jnp.zeros(k, jnp.int32))
    return jax.lax.fori_loop(0, k, step, start)[1]


def rename_best(new: Any, old: Any, k: int) -> Array:
    """`rename` with the largest possible overlap, by the Hungarian algorithm on the host.

    Args:
      new: int32 `[N]`, -1 stays -1.
      old: int32 `[N]`.
      k: groups, of both.

    Reference: Kuhn, The Hungarian method, 1955; `scipy.optimize.linear_sum_assignment`.
    """
    from scipy.optimize import linear_sum_assignment

    refuse_tracing("rename_best", new, old)
    table = np.asarray(contingency(new, old, k, k))
    _, name = linear_sum_assignment(table, maximize=True)
    new = np.asarray(new)
    return jnp.asarray(np.where(new >= 0, name[np.maximum(new, 0)], NONE), jnp.int32)


def regroup(
    grouper: Grouper, key: Array, x: Any, before: Groups, mask: Any = None, *, k: int
) -> Groups:
    """Fit again, the new groups keeping the names of the old ones that they overlap most.

    Clients absent now keep their old group: who leaves and comes back finds its place. What
    `info` holds of each group (`PER_GROUP`) is put in the order of the names.

    Args:
      grouper: what fits; in jit it must not be a host one.
      key: for the fit.
      x: features or similarity, as `grouper.takes`.
      before: the groups so far, ids below `k`.
      mask: bool `[N]`, who is present.
      k: groups, a bound on both fits' ids. Where the kernel makes fewer, the centers of names
        without a group are NaN, and no new client goes there.

    Cost: one fit and O(N + k^3).
    """
    integer("k", k, least=1)
    found = grouper.fit(key, x, mask)
    name = match_greedy(contingency(found.ids, before.ids, k, k))
    present = jnp.ones(found.ids.shape, bool) if mask is None else jnp.asarray(mask)
    ids, old_of = _renamed(found.ids, before.ids, present, name)
    info = {n: _in_order(n, v, old_of) for n, v in found.info.items()}
    return Groups(ids, info | {"sizes": sizes_of(ids, k)})


def _in_order(entry: str, value: Any, old_of: Array) -> Any:
    """What `info` holds of each group, by their lasting names; NaN where a name has no group."""
    if entry not in (*PER_GROUP, *PER_COLUMN):
        return value
    axis = 0 if entry in PER_GROUP else 1
    missing = jnp.nan if jnp.issubdtype(value.dtype, jnp.floating) else 0
    return jnp.take(value, old_of, axis=axis, mode="fill", fill_value=missing)


@jax.jit
def _renamed(found: Array, before: Array, present: Array, name: Array) -> tuple[Array, Array]:
    """Ids under their lasting names, and which new group has each name."""
    k, there = name.shape[0], found >= 0
    ids = jnp.where(there, name[jnp.maximum(found, 0)], before)
    # A present client that the kernel calls noise is in no group now.
    ids = jnp.where(present & ~there, NONE, ids).astype(jnp.int32)
    return ids, jnp.zeros(k, jnp.int32).at[name].set(jnp.arange(k, dtype=jnp.int32))
