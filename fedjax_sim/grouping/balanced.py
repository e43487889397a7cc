"""k-means whose groups have bounded sizes: exact on the host, greedy in jit."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.types import Array
from fedjax_sim.grouping.kmeans import kmeans, nearest_center
from fedjax_sim.grouping.lloyd import squared_distances
from fedjax_sim.grouping.types import (
    Grouper,
    Groups,
    features,
    is_traced,
    refuse_tracing,
    settled,
)


def balanced(
    k: int,
    *,
    least: int = 0,
    most: int | None = None,
    iterations: int = 50,
    restarts: int = 4,
    exact: bool = True,
) -> Grouper:
    """k-means with at least `least` and at most `most` clients in every group.

    Starts from `kmeans`; then assigns and averages in turn until nothing changes. Exact: every
    assignment is the cheapest that keeps the bounds, a transport problem whose corners
    are whole numbers (SciPy's HiGHS, on the host). Otherwise: clients apply to their nearest
    center, a full center keeps its nearest, the others apply to their next one, until all have
    a place (deferred acceptance, in jit and vmap; `most` only).

    Args:
      k: groups.
      least: clients of the smallest group.
      most: clients of the largest group; None sets no bound.
      iterations: assignments at most.
      restarts: of the k-means that gives the first centers.
      exact: on the host; False in jit.

    Returns:
      A `Grouper` of features; info as of `kmeans`. New clients go to the nearest center, whatever
      its size.

    Cost: exact: a linear program of `N k` unknowns an iteration, for a few thousand clients.
      In jit: up to `N k` rounds of `k` sorts an iteration, commonly a few.
    Reference: Bradley, Bennett, Demiriz, Constrained K-Means Clustering, 2000; Gale and Shapley,
      College Admissions and the Stability of Marriage, 1962.
    """
    integer("k", k, least=1)
    integer("least", least, least=0)
    integer("iterations", iterations, least=1)
    if most is not None:
        integer("most", most, least=max(1, least))
    if not exact and least > 0:
        raise InputError("least", least, "needs exact=True: the rule in jit has no lower bound")
    if not exact and most is None:
        raise InputError("most", most, "is needed with exact=False")
    seeds = kmeans(k, restarts=restarts)

    def fit(key: Array, x: Any, mask: Any = None) -> Groups:
        if exact:
            refuse_tracing("balanced", x, mask)
        x, present = features(x, mask, k=k)
        _room(x, present, k, least, most)
        start = seeds.fit(key, x, present).info["centers"]
        if exact:
            return _fit_exact(x, present, start, least, most, iterations)
        assert most is not None
        return _fit_greedy(x, present, start, most, iterations)

    def assign(groups: Groups, x: Any) -> Array:
        x, present = features(x)
        return nearest_center(x, present, groups.info["centers"])

    return Grouper(fit, "features", assign, host=exact)


def _room(x: Array, present: Array, k: int, least: int, most: int | None) -> None:
    """Refuse bounds that the clients present cannot keep; in jit, that all could not keep."""
    n = x.shape[0] if is_traced(present) else int(jnp.sum(present))
    if most is not None and k * most < n:
        raise InputError("most", most, f"{k} groups of at most {most} cannot hold {n} clients")
    if k * least > n:
        raise InputError("least", least, f"{n} clients cannot give {k} groups {least} each")


def _fit_exact(
    x: Array, present: Array, start: Array, least: int, most: int | None, iterations: int
) -> Groups:
    there = np.flatnonzero(np.asarray(present))
    rows = np.asarray(x, np.float64)[there]
    centers, ids = np.asarray(start, np.float64), np.full(len(rows), -1)
    rounds, inertia = 0, np.inf
    for rounds in range(1, iterations + 1):  # noqa: B007
        square = ((rows[:, None] - centers[None]) ** 2).sum(2)
        new = _transport(square, least, len(rows) if most is None else most)
        cost = float(square[np.arange(len(rows)), new].sum())
        # Solutions of equal cost may follow one another for ever.
        if np.array_equal(new, ids) or not cost < inertia * (1 - 1e-12):
            break
        ids, inertia = new, cost
        for g in np.unique(ids):
            centers[g] = rows[ids == g].mean(0)
    inertia = float(((rows - centers[ids]) ** 2).sum())
    every = np.full(x.shape[0], -1)
    every[there] = ids
    return settled(
        jnp.asarray(every),
        present,
        len(centers),
        centers=jnp.asarray(centers, x.dtype),
        inertia=jnp.asarray(inertia, x.dtype),
        iterations=jnp.asarray(rounds, jnp.int32),
    )


def _transport(cost: np.ndarray, least: int, most: int) -> np.ndarray:
    """The cheapest assignment int `[n]` of rows to columns with bounded column counts."""
    from scipy import sparse
    from scipy.optimize import linprog

    n, k = cost.shape
    once = sparse.kron(sparse.identity(n), np.ones((1, k)), format="csr")
    count = sparse.kron(np.ones((1, n)), sparse.identity(k), format="csr")
    bounds = sparse.vstack([count, -count], format="csr")
    limits = np.concatenate([np.full(k, most), np.full(k, -least)])
    # The dual simplex ends in a corner, and every corner is a whole assignment.
    answer = linprog(
        cost.ravel(),
        A_ub=bounds,
        b_ub=limits,
        A_eq=once,
        b_eq=np.ones(n),
        bounds=(0, 1),
        method="highs-ds",
    )
    if answer.x is None:
        raise RuntimeError(f"no assignment was found: {answer.message}")
    return answer.x.reshape(n, k).argmax(1)


@functools.partial(jax.jit, static_argnames=("most", "iterations"))
def _fit_greedy(x: Array, present: Array, start: Array, most: int, iterations: int) -> Groups:
    k = start.shape[0]

    def belongs(ids: Array) -> Array:
        return ((ids[None] == jnp.arange(k)[:, None]) & present[None]).astype(x.dtype)

    def means(ids: Array, before: Array) -> Array:
        weight = belongs(ids)
        count = jnp.sum(weight, axis=1)[:, None]
        sums = jnp.matmul(weight, x, precision=jax.lax.Precision.HIGHEST)
        return jnp.where(count > 0, sums / jnp.maximum(count, 1), before)

    def cost_of(ids: Array, centers: Array) -> Array:
        square = jnp.sum(jnp.square(x - centers[jnp.maximum(ids, 0)]), axis=1)
        return jnp.sum(jnp.where(ids >= 0, square, 0))

    def going(carry: tuple[Array, ...]) -> Array:
        return carry[3] & (carry[4] < iterations)

    def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        ids, centers, cost, _, t = carry
        new = capped(squared_distances(x, centers), present, most)
        moved = means(new, centers)
        now = cost_of(new, moved)
        # Stable matches need not lower the cost: the best so far is kept.
        better = now < cost
        keep = jax.tree.map(
            lambda a, b: jnp.where(better, a, b), (new, moved, now), (ids, centers, cost)
        )
        return *keep, better, t + 1

    blank = jnp.full(x.shape[0], -1, jnp.int32)
    worst = jnp.full((), jnp.inf, x.dtype)
    begin = (blank, start, worst, jnp.ones((), bool), jnp.zeros((), jnp.int32))
    ids, centers, cost, _, rounds = jax.lax.while_loop(going, step, begin)
    return settled(ids, present, k, centers=centers, inertia=cost, iterations=rounds)


def capped(cost: Array, mask: Array, most: int) -> Array:
    """A stable assignment of rows to columns of at most `most` rows: int32 `[N]`.

    No row would rather be in a column that would rather have it: a row's and a column's wish
    is the same number `cost`. Deferred acceptance; works in jit and vmap. A row that finds no
    place (there is none left for it) gets -1.

    Args:
      cost: `[N, k]`, finite.
      mask: bool `[N]`; absent rows get -1.
      most: rows of a column.

    Cost: O(k N log N) a round of applications, at most `N k` rounds, commonly a few.
    Reference: Gale and Shapley, 1962.
    """
    n, k = cost.shape
    columns = jnp.arange(k)

    def going(carry: tuple[Array, Array]) -> Array:
        refused, ids = carry
        return jnp.any(mask & (ids < 0) & ~jnp.all(refused, axis=1))

    def round_(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        refused, _ = carry
        wish = jnp.argmin(jnp.where(refused, jnp.inf, cost), axis=1)
        applies = mask & ~jnp.all(refused, axis=1)
        at = applies[:, None] & (wish[:, None] == columns[None])
        # Rank of each applicant in its column, ties by row.
        order = jnp.argsort(jnp.where(at, cost, jnp.inf), axis=0, stable=True)
        rank = jnp.zeros((n, k), jnp.int32)
        places = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[:, None], (n, k))
        rank = rank.at[order, columns[None]].set(places)
        kept = at & (rank < most)
        refused = refused | (at & ~kept)
        ids = jnp.where(jnp.any(kept, axis=1), wish, -1).astype(jnp.int32)
        return refused, ids

    begin = (jnp.zeros((n, k), bool), jnp.full(n, -1, jnp.int32))
    return jax.lax.while_loop(going, round_, begin)[1]
