"""How many groups are there? The gap statistic, silhouettes, the eigengap."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, choice, integer
from fedjax_sim.core.types import Array
from fedjax_sim.grouping.kmeans import kmeans
from fedjax_sim.grouping.lloyd import squared_distances
from fedjax_sim.grouping.spectral import eigenvalues
from fedjax_sim.grouping.types import features, refuse_tracing


class Count(NamedTuple):
    """A number of groups and why.

    Attributes:
      k: the number chosen.
      tried: the numbers that were tried.
      scores: `[len(tried)]`, larger is better by the rule that chose.
      errors: `[len(tried)]`, the standard error of each score where the rule has one, else 0.
    """

    k: int
    tried: tuple[int, ...]
    scores: np.ndarray
    errors: np.ndarray


def silhouette(x: Any, ids: Any, k: int, *, rows: int = 128) -> Array:
    """The mean silhouette of a grouping by euclidean distances, `()` in [-1, 1].

        s_i = (b_i - a_i) / max(a_i, b_i)

    with a_i the mean distance to the others of its group, b_i the least mean distance to another
    group. A client alone in its group has 0; so has everybody when there is one group.

    Args:
      x: features `[N, d]`.
      ids: int32 `[N]`; -1 is left out.
      k: groups.
      rows: clients compared with all at a time.

    Cost: `2 N^2 d` operations, `rows N` memory. `simplified_silhouette` costs `N k d`.
    Reference: Rousseeuw, Silhouettes, 1987.
    """
    return _silhouette(*features(x), jnp.asarray(ids), k, rows)


@functools.partial(jax.jit, static_argnames=("k", "rows"))
def _silhouette(table: Array, mask: Array, ids: Array, k: int, rows: int) -> Array:
    ids = jnp.where(mask, ids, -1)
    belongs = (ids[:, None] == jnp.arange(k)[None]).astype(table.dtype)
    sizes = jnp.sum(belongs, axis=0)

    def one(row: tuple[Array, Array]) -> Array:
        mine, group = row
        distance = jnp.sqrt(jnp.sum(jnp.square(table - mine[None]), axis=1))
        to_groups = jnp.sum(distance[:, None] * belongs, axis=0)
        own, n = to_groups[group], sizes[group]
        others = jnp.where((jnp.arange(k) == group) | (sizes == 0), jnp.inf, to_groups)
        b = jnp.min(others / jnp.maximum(sizes, 1))
        a = own / jnp.maximum(n - 1, 1)
        defined = (group >= 0) & (n > 1) & jnp.isfinite(b) & (jnp.maximum(a, b) > 0)
        b = jnp.where(defined, b, 1)
        return jnp.where(defined, (b - a) / jnp.where(defined, jnp.maximum(a, b), 1), 0)

    each = jax.lax.map(one, (table, ids), batch_size=rows)
    return jnp.sum(each) / jnp.maximum(jnp.sum(sizes), 1)


def simplified_silhouette(x: Any, ids: Any, centers: Array) -> Array:
    """The mean silhouette with distances to centers instead of to all clients, `()`.

        s_i = (b_i - a_i) / max(a_i, b_i),   a_i = |x_i - c_own|,  b_i = min over other centers

    Args:
      x: features `[N, d]`.
      ids: int32 `[N]`; -1 is left out. Centers of empty groups are not looked at.
      centers: `[k, d]`.

    Cost: `2 N k d` operations, `N k` memory.
    Reference: Hruschka, de Castro, Campello, Evolutionary algorithms for clustering gene-
      expression data, 2004.
    """
    return _simplified(*features(x), jnp.asarray(ids), centers)


@jax.jit
def _simplified(table: Array, mask: Array, ids: Array, centers: Array) -> Array:
    k = centers.shape[0]
    ids = jnp.where(mask, ids, -1)
    own = ids[:, None] == jnp.arange(k)[None]
    filled = jnp.any(own, axis=0)
    distance = jnp.sqrt(squared_distances(table, centers))
    a = jnp.sum(jnp.where(own, distance, 0), axis=1)
    b = jnp.min(jnp.where(own | ~filled[None], jnp.inf, distance), axis=1)
    defined = (ids >= 0) & jnp.isfinite(b) & (jnp.maximum(a, b) > 0)
    b = jnp.where(defined, b, 1)
    each = jnp.where(defined, (b - a) / jnp.where(defined, jnp.maximum(a, b), 1), 0)
    return jnp.sum(each) / jnp.maximum(jnp.sum(ids >= 0), 1)


def count_groups(
    key: Array,
    x: Any,
    mask: Any = None,
    *,
    tried: Sequence[int] = tuple(range(1, 11)),
    method: str = "gap",
    references: int = 10,
    restarts: int = 4,
) -> Count:
    """The number of groups of features, by `kmeans` with each number tried; on the host.

    `"gap"`: the smallest k with `Gap(k) >= Gap(k+1) - s(k+1)`, where `Gap(k)` is how much lower the
    log inertia is than that of clients spread evenly over the box of the features' principal
    axes; it alone can answer 1. `"silhouette"` and `"simplified"`: the k of the largest mean
    silhouette; 1 scores 0.

    Args:
      key: for seeds and references.
      x: features `[N, d]`.
      mask: bool `[N]`, who is present.
      tried: numbers of groups, ascending, at most as many as clients. The gap rule compares
        neighbors: leave none out.
      method: `"gap"`, `"silhouette"` or `"simplified"`.
      references: even spreads drawn.
      restarts: of each k-means.

    Cost: a k-means for each number tried; the gap `1 + references` of them.
    Reference: Tibshirani, Walther, Hastie, Estimating the number of clusters in a data set via
      the gap statistic, 2001.
    """
    choice("method", method, ("gap", "silhouette", "simplified"))
    refuse_tracing("count_groups", x, mask)
    ks = tuple(integer("tried", k, least=1) for k in tried)
    if not ks or list(ks) != sorted(set(ks)):
        raise InputError("tried", ks, "must be ascending numbers of groups")
    integer("references", references, least=1)
    table, present = features(x, mask, k=ks[-1])
    rows = table[np.flatnonzero(np.asarray(present))]
    if method == "gap":
        return _gap(key, rows, ks, references, restarts)
    scores: list[float] = []
    for k in ks:
        found = kmeans(k, restarts=restarts).fit(jax.random.fold_in(key, k), rows)
        if method == "silhouette":
            scores.append(float(silhouette(rows, found.ids, k)))
        else:
            scores.append(float(simplified_silhouette(rows, found.ids, found.info["centers"])))
    best = ks[int(np.argmax(scores))]
    return Count(best, ks, np.array(scores), np.zeros(len(ks)))


def _gap(key: Array, x: Array, ks: tuple[int, ...], references: int, restarts: int) -> Count:
    turned, even_rows = _even(key, x, references)
    draws = list(even_rows)
    seed = jax.random.fold_in(key, references)

    def level(rows: Array, k: int, b: int) -> float:
        fit = kmeans(k, restarts=restarts).fit
        found = fit(jax.random.fold_in(jax.random.fold_in(seed, k), b), rows)
        return float(np.log(max(float(found.info["inertia"]), np.finfo(np.float32).tiny)))

    gaps, errors = np.zeros(len(ks)), np.zeros(len(ks))
    for i, k in enumerate(ks):
        even = np.array([level(rows, k, b) for b, rows in enumerate(draws)])
        gaps[i] = even.mean() - level(turned, k, references)
        errors[i] = even.std() * np.sqrt(1 + 1 / references)
    good = gaps[:-1] >= gaps[1:] - errors[1:]
    best = ks[int(np.argmax(good))] if good.any() else ks[int(np.argmax(gaps))]
    return Count(best, ks, gaps, errors)


@functools.partial(jax.jit, static_argnames="references")
def _even(key: Array, x: Array, references: int) -> tuple[Array, Array]:
    """Features on their principal axes, and `[references, N, d]` even in the box around them."""
    about = x - jnp.mean(x, axis=0)[None]
    axes = jnp.linalg.svd(about, full_matrices=False)[2]
    turned = jnp.matmul(about, axes.T, precision=jax.lax.Precision.HIGHEST)
    low, high = jnp.min(turned, axis=0), jnp.max(turned, axis=0)
    draws = jax.random.uniform(key, (references, *turned.shape), x.dtype)
    return turned, low[None, None] + draws * (high - low)[None, None]


def eigengap(similarity: Any, mask: Any = None, *, most: int = 10) -> Count:
    """The number of groups of a similarity: where the spectrum falls most; on the host.

    The normalized similarity of k groups apart has k eigenvalues of 1; the largest drop
    `e_k - e_(k+1)` is after them.

    Args:
      similarity: `[N, N]`; negative entries count as 0, as in `spectral`.
      mask: bool `[N]`.
      most: the largest number looked at.

    Cost: O(N^3).
    Reference: von Luxburg, A Tutorial on Spectral Clustering, 2007, arXiv:0711.0189, section 8.3.
    """
    refuse_tracing("eigengap", similarity, mask)
    integer("most", most, least=1)
    values = np.asarray(eigenvalues(similarity, mask), np.float64)
    values = values[values > -1.5]
    if len(values) < 2:
        return Count(1, (1,), np.zeros(1), np.zeros(1))
    drops = values[:-1] - values[1:]
    drops = drops[:most]
    ks = tuple(range(1, len(drops) + 1))
    return Count(int(np.argmax(drops)) + 1, ks, drops, np.zeros(len(drops)))
