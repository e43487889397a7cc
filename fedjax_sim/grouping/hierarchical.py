"""Agglomerative clustering: SciPy's on the host, and merging of a small cohort inside jit."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, choice, integer, number
from fedjax_sim.core.types import Array
from fedjax_sim.grouping.types import Grouper, Groups, features, refuse_tracing, settled
from fedjax_sim.grouping.types import similarities as checked

LINKAGES = ("single", "complete", "average", "ward")


def agglomerative(
    k: int | None = None,
    *,
    linkage: str = "average",
    threshold: float | None = None,
    takes: str = "features",
    host: bool = True,
) -> Grouper:
    """Merges the two nearest groups again and again, down to `k` groups or up to a distance.

    Distances are euclidean between features; between similarities they are the largest
    similarity minus each. Groups are numbered by their first client.

    Args:
      k: groups at the end; give it or `threshold`, not both.
      linkage: `"single"`, `"complete"`, `"average"` or `"ward"`; Ward wants features.
      threshold: groups farther apart than this are not merged.
      takes: `"features"` or `"similarity"`.
      host: SciPy's implementation; False runs in jit and vmap, with `k` only, for a few
        hundred clients.

    Returns:
      A `Grouper`; info: `sizes`, and on the host `merges` `[N' - 1, 4]`, SciPy's linkage
      matrix of the N' clients present.

    Cost: host: O(N^2) time and memory. In jit: O(N^3) time, O(N^2) memory.
    Reference: Muellner, Modern hierarchical, agglomerative clustering algorithms, 2011,
      arXiv:1109.2378; in federated learning: Briggs, Fan, Andras, 2020, arXiv:2004.11791.
    """
    choice("linkage", linkage, LINKAGES)
    choice("takes", takes, ("features", "similarity"))
    _check(k, linkage, threshold, takes, host)

    def fit(key: Array, x: Any, mask: Any = None) -> Groups:
        del key
        if host:
            refuse_tracing("agglomerative", x, mask)
        distance, present = _distances(x, mask, k or 1, takes)
        if host:
            return _fit_host(distance, present, k, linkage, threshold)
        if k is None:
            raise InputError("k", k, "is needed in jit")
        return settled(merge(distance, present, k, linkage=linkage), present, k)

    return Grouper(fit, "features" if takes == "features" else "similarity", None, host=host)


def _check(k: int | None, linkage: str, threshold: float | None, takes: str, host: bool) -> None:
    if (k is None) == (threshold is None):
        raise InputError("k", k, "give either k or threshold")
    if k is not None:
        integer("k", k, least=1)
    if threshold is not None:
        number("threshold", threshold)
    if k is None and not host:
        raise InputError("host", host, "a threshold needs host=True: the number of groups varies")
    if linkage == "ward" and takes == "similarity":
        raise InputError("linkage", linkage, "Ward's rule needs features")


def _distances(x: Any, mask: Any, k: int, takes: str) -> tuple[Array, Array]:
    if takes == "similarity":
        table, present = checked(x, mask, k=k)
        return _from_similarity(table, present), present
    table, present = features(x, mask, k=k)
    return _euclidean(table), present


@jax.jit
def _from_similarity(table: Array, present: Array) -> Array:
    both = present[:, None] & present[None]
    return jnp.where(both, jnp.max(jnp.where(both, table, -jnp.inf)) - table, 0)


@jax.jit
def _euclidean(x: Array) -> Array:
    # Differences, not the product form: distances of near clients decide the order of merges.
    def from_one(row: Array) -> Array:
        return jnp.sqrt(jnp.sum(jnp.square(x - row[None]), axis=1))

    return jax.lax.map(from_one, x)


def _fit_host(
    distance: Array, present: Array, k: int | None, linkage: str, threshold: float | None
) -> Groups:
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    rows = np.flatnonzero(np.asarray(present))
    table = np.asarray(distance, np.float64)[np.ix_(rows, rows)]
    table = (table + table.T) / 2
    np.fill_diagonal(table, 0)
    ids = np.full(len(np.asarray(present)), -1)
    merges = np.zeros((0, 4))
    if len(rows) == 1:
        ids[rows] = 0
    elif len(rows) > 1:
        merges = hierarchy.linkage(squareform(table, checks=False), linkage)
        if k is None:
            assert threshold is not None
            flat = hierarchy.fcluster(merges, threshold, "distance")
        else:
            flat = _cut(merges, k)
        _, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
        ids[rows] = np.argsort(np.argsort(first))[inverse]
    count = int(ids.max()) + 1
    return settled(jnp.asarray(ids), present, max(count, k or 1), merges=jnp.asarray(merges))


def _cut(merges: np.ndarray, k: int) -> np.ndarray:
    """Exactly k groups also where merges tie, which `fcluster(maxclust)` does not promise."""
    n = len(merges) + 1
    member = np.arange(n)
    for step, (a, b) in enumerate(merges[: n - k, :2].astype(int)):
        member[(member == a) | (member == b)] = n + step
    return member


@functools.partial(jax.jit, static_argnames=("k", "linkage"))
def merge(distance: Array, mask: Array, k: int, *, linkage: str = "average") -> Array:
    """Merge the two nearest groups until `k` are left: int32 ids `[K]`, -1 where absent.

    Lance and Williams' update of the distance of the merged group (a, b) to any other c:
    single `min`, complete `max`, average the mean weighted by sizes, Ward on squared distances
    `((n_a + n_c) d_ac + (n_b + n_c) d_bc - n_c d_ab) / (n_a + n_b + n_c)`. Groups are numbered
    by their first client; with fewer than `k` present clients each has its own. Works in jit
    and vmap.

    Args:
      distance: `[K, K]`, symmetric, absent rows finite.
      mask: bool `[K]`.
      k: groups at the end.
      linkage: as in `agglomerative`.

    Cost: O(K^3): for a cohort of a few hundred.
    Reference: Lance and Williams, A general theory of classificatory sorting strategies, 1967.
    """
    choice("linkage", linkage, LINKAGES)
    n = distance.shape[0]
    rows = jnp.arange(n, dtype=jnp.int32)
    # The upper triangle alone: a group is kept at its first client.
    table = jnp.square(distance) if linkage == "ward" else distance

    def step(t: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        table, sizes, member = carry
        alive = sizes > 0
        pairs = alive[:, None] & alive[None] & (rows[:, None] < rows[None])
        flat = jnp.argmin(jnp.where(pairs, table, jnp.inf))
        a, b = flat // n, flat % n
        go = jnp.sum(alive) > k
        new = _lance_williams(table, sizes, a, b, linkage)
        merged = table.at[a].set(new).at[:, a].set(new)
        joined = sizes.at[a].add(sizes[b]).at[b].set(0)
        moved = jnp.where(member == b, a.astype(jnp.int32), member)
        return (
            jnp.where(go, merged, table),
            jnp.where(go, joined, sizes),
            jnp.where(go, moved, member),
        )

    start = (table, mask.astype(table.dtype), rows)
    _, sizes, member = jax.lax.fori_loop(0, max(n - k, 0), step, start)
    number_of = jnp.cumsum(sizes > 0) - 1
    return jnp.where(mask, number_of[member], -1).astype(jnp.int32)


def _lance_williams(table: Array, sizes: Array, a: Array, b: Array, linkage: str) -> Array:
    """Distances `[K]` of the merged group to every other."""
    to_a, to_b, n_a, n_b = table[a], table[b], sizes[a], sizes[b]
    if linkage == "single":
        return jnp.minimum(to_a, to_b)
    if linkage == "complete":
        return jnp.maximum(to_a, to_b)
    if linkage == "average":
        return (n_a * to_a + n_b * to_b) / jnp.maximum(n_a + n_b, 1)
    total = jnp.maximum(n_a + n_b + sizes, 1)
    return ((n_a + sizes) * to_a + (n_b + sizes) * to_b - sizes * table[a, b]) / total
