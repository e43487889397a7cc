"""Projections onto the probability simplex, and the shortest vector near a mixture."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core.types import Array


def onto_simplex(values: Array) -> Array:
    """The point of `{p >= 0, sum p = 1}` closest to `values` `[M]`.

    `p_i = max(v_i - tau, 0)`, tau such that they sum to 1.

    Cost: `M log M`.
    Reference: Duchi et al., Efficient Projections onto the l1-Ball, 2008, figure 1.
    """
    largest = jnp.sort(values, descending=True)
    beyond = jnp.cumsum(largest) - 1
    rank = jnp.arange(1, values.shape[0] + 1, dtype=values.dtype)
    n = jnp.sum(largest * rank > beyond, dtype=jnp.int32)
    tau = beyond[n - 1] / rank[n - 1]
    return jnp.maximum(values - tau[None], 0)


def onto_box_simplex(values: Array, low: Array, high: Array) -> Array:
    """The point of `{low <= p <= high, sum p = 1}` closest to `values`, all `[K]`.

    `p_i = clip(v_i - tau, low_i, high_i)`; the sum is piecewise linear in tau with corners
    `v - low` and `v - high`, so that tau lies on the line between two of them. The set must not
    be empty: `sum low <= 1 <= sum high`.

    Cost: `2 K^2` operations, no loop.
    """

    def at(tau: Array) -> Array:
        return jnp.clip(values - tau, low, high)

    corners = jnp.concatenate([values - low, values - high])
    sums = jax.vmap(lambda c: jnp.sum(at(c[None])))(corners)
    # The last corner at which the sum is still 1 or more, and the first at which it is not more.
    left = jnp.max(jnp.where(sums >= 1, corners, -jnp.inf))
    left = jnp.where(jnp.isfinite(left), left, jnp.min(corners))
    right = jnp.min(jnp.where(corners > left, corners, jnp.inf))
    right = jnp.where(jnp.isfinite(right), right, left)
    above, below = jnp.sum(at(left[None])), jnp.sum(at(right[None]))
    fall = above - below
    part = jnp.where(fall > 0, (above - 1) / jnp.where(fall > 0, fall, 1), 0)
    return at((left + jnp.clip(part, 0, 1) * (right - left))[None])


class _Point(NamedTuple):
    p: Array  # [K]
    ahead: Array  # [K], with momentum
    pace: Array
    moved: Array
    t: Array


def shortest_near(gram: Array, centre: Array, radius: Array | float) -> Array:
    """`argmin p' G p` over the simplex, no entry further than `radius` from `centre`'s.

    With `G = U U'` it is the shortest vector `sum p_i u_i` among the mixtures near `centre`: the
    common descent direction of multiple-gradient descent (radius 1), or `centre` itself
    (radius 0). Entries whose centre is 0 stay 0: they are of the absent.

    Accelerated projected gradient with restarts, until a step is below the precision of the
    numbers, at most 500 of them.

    Args:
      gram: G `[K, K]`, positive semidefinite.
      centre: `[K]`, on the simplex.
      radius: epsilon, in [0, 1].

    Cost: `O(K^2)` an iteration.
    """
    here = centre > 0
    low = jnp.where(here, jnp.maximum(centre - radius, 0), 0)
    high = jnp.where(here, jnp.minimum(centre + radius, 1), 0)
    gram = jnp.where(here[:, None] & here[None, :], gram, 0)
    steepest = jnp.maximum(jnp.max(jnp.sum(jnp.abs(gram), axis=1)), jnp.finfo(gram.dtype).tiny)
    enough = 4 * jnp.finfo(gram.dtype).eps

    def step(at: _Point) -> _Point:
        slope = gram @ at.ahead
        p = onto_box_simplex(at.ahead - slope / steepest, low, high)
        # Momentum that points uphill is dropped (O'Donoghue and Candes 2012).
        uphill = jnp.dot(at.ahead - p, p - at.p) > 0
        before = jnp.where(uphill, 1, at.pace)
        pace = (1 + jnp.sqrt(1 + 4 * before**2)) / 2
        ahead = p + ((before - 1) / pace)[None] * (p - at.p)
        return _Point(p, ahead, pace, jnp.max(jnp.abs(p - at.p)), at.t + 1)

    def goes_on(at: _Point) -> Array:
        return (at.t < 500) & (at.moved > enough)

    first = jnp.where(jnp.any(here), onto_box_simplex(centre, low, high), centre)
    one = jnp.ones((), gram.dtype)
    start = _Point(first, first, one, one, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(goes_on, step, start).p
