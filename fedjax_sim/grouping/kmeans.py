"""k-means with k-means++ seeding: Lloyd's algorithm in one compiled program."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core.checks import InputError, choice, integer, number
from fedjax_sim.core.types import Array
from fedjax_sim.grouping.lloyd import Pass, look, plus_plus
from fedjax_sim.grouping.types import NONE, Grouper, Groups, features, settled


class Lloyd(NamedTuple):
    """Where Lloyd's algorithm stands.

    Attributes:
      centers: `[k, d]`.
      seen: the `Pass` that these centers were made from.
      moved: `()`, sum of squared moves of the centers in the last iteration.
      iterations: int32 `()`.
    """

    centers: Array
    seen: Pass
    moved: Array
    iterations: Array


def kmeans(
    k: int,
    *,
    metric: str = "euclidean",
    restarts: int = 4,
    iterations: int = 100,
    tolerance: float = 1e-4,
) -> Grouper:
    """Groups of least squared distance to their centers; or, spherical, of largest cosine.

    Seeds by greedy k-means++, then repeats

        g_i = argmin_j |x_i - c_j|^2,    c_j = mean { x_i : g_i = j }

    until the centers move less than `tolerance` (times the mean variance of the features), and
    keeps the restart of least inertia. An empty group is put at the client farthest from its
    center, unless that distance is zero: identical clients all go to group 0 and the other
    groups stay empty. With `metric="cosine"` rows and centers have norm 1; a row of zeros is
    as near to every center: it goes to group 0, moves none and adds no inertia. Works in jit, vmap.

    Args:
      k: groups, at most the number of clients.
      metric: `"euclidean"` or `"cosine"`.
      restarts: seedings, one after the other, of which the best is kept; 1 for a million
        clients.
      iterations: most Lloyd iterations of one restart.
      tolerance: 0 goes on until no center moves.

    Returns:
      A `Grouper` of features; info: `sizes` int32 `[k]`, `centers` `[k, d]`, `inertia` `()`,
      `iterations` int32 `()`.

    Cost: `4 N k d` operations an iteration; memory `N (2 + log k)` and a block of rows beside
      the features.
    Reference: Lloyd, Least squares quantization in PCM, 1982; Arthur and Vassilvitskii, 2007;
      spherical: Dhillon and Modha, Concept decompositions, 2001.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([[0.0], [0.1], [5.0], [5.1]])
      >>> ids = kmeans(2).fit(jax.random.key(0), x).ids
      >>> bool(ids[0] == ids[1] != ids[2]) and bool(ids[2] == ids[3])
      True
    """
    integer("k", k, least=1)
    choice("metric", metric, ("euclidean", "cosine"))
    integer("restarts", restarts, least=1)
    integer("iterations", iterations, least=1)
    number("tolerance", tolerance, least=0.0)
    cosine = metric == "cosine"

    def fit(key: Array, x: Any, mask: Any = None) -> Groups:
        x, present = features(x, mask, k=k)
        return _fit(key, x, present, tolerance, k, cosine, restarts, iterations)

    def assign(groups: Groups, x: Any) -> Array:
        x, present = features(x)
        return nearest_center(x, present, groups.info["centers"], cosine)

    return Grouper(fit, "features", assign, host=False)


@functools.partial(jax.jit, static_argnames=("k", "cosine", "restarts", "iterations"))
def _fit(
    key: Array,
    x: Array,
    mask: Array,
    tolerance: float,
    k: int,
    cosine: bool,
    restarts: int,
    iterations: int,
) -> Groups:
    x, middle = _ready(x, mask, cosine)
    counted = mask & jnp.any(x != 0, axis=1) if cosine else mask

    def once(i: Array | int) -> tuple[Array, Array, Array, Array]:
        start = plus_plus(jax.random.fold_in(key, i), x, counted, k)
        done = descend(x, counted, start, tolerance=tolerance, iterations=iterations, cosine=cosine)
        return done.seen.ids, done.centers, jnp.sum(done.seen.square), done.iterations

    def best_of(i: Array, kept: tuple[Array, ...]) -> tuple[Array, ...]:
        found = once(i)
        return jax.tree.map(lambda a, b: jnp.where(found[2] < kept[2], a, b), found, kept)

    # One loop from nothing: the body is compiled once.
    nothing = (
        jnp.zeros(x.shape[0], jnp.int32),
        jnp.zeros((k, x.shape[1]), x.dtype),
        jnp.full((), jnp.inf, x.dtype),
        jnp.zeros((), jnp.int32),
    )
    best = jax.lax.fori_loop(0, restarts, best_of, nothing) if restarts > 1 else once(0)
    ids, centers, inertia, rounds = best
    return settled(ids, mask, k, centers=centers + middle[None], inertia=inertia, iterations=rounds)


def descend(
    x: Array,
    mask: Array,
    start: Array,
    *,
    tolerance: float | Array = 1e-4,
    iterations: int = 100,
    cosine: bool = False,
) -> Lloyd:
    """Lloyd's algorithm from given centers, to the end; `seen` is of the centers returned.

    Args:
      x: `[N, d]`; of norm 1 when `cosine`.
      mask: bool `[N]`.
      start: `[k, d]`.
      tolerance: as in `kmeans`.
      iterations: at most.
      cosine: centers are scaled to norm 1.

    Cost: `4 N k d` an iteration and `2 N k d` at the end.
    """
    enough = tolerance * _variance(x, mask)

    def going(state: Lloyd) -> Array:
        return (state.iterations < iterations) & (state.moved > enough)

    def step(state: Lloyd) -> Lloyd:
        seen = look(x, mask, state.centers)
        centers = _means(x, seen, state.centers, cosine)
        moved = jnp.sum(jnp.square(centers - state.centers))
        return Lloyd(centers, seen, moved, state.iterations + 1)

    k = start.shape[0]
    blank = Pass(
        jnp.zeros(x.shape[0], jnp.int32),
        jnp.zeros(x.shape[0], x.dtype),
        jnp.zeros_like(start),
        jnp.zeros(k, x.dtype),
    )
    begin = Lloyd(start, blank, jnp.full((), jnp.inf, x.dtype), jnp.zeros((), jnp.int32))
    done = jax.lax.while_loop(going, step, begin)
    return done._replace(seen=look(x, mask, done.centers, sums=False))


def nearest_center(x: Array, mask: Array, centers: Array, cosine: bool = False) -> Array:
    """The nearest center of each row, int32 `[N]`, -1 where absent: new clients, no fit.

    Raises:
      InputError: the numbers of features differ.
    """
    if x.shape[1] != centers.shape[1]:
        remedy = f"must have the {centers.shape[1]} features of the centers"
        raise InputError("x", f"{x.shape[1]} features", remedy)
    x = _unit(x) if cosine else x
    return jnp.where(mask, _look_only(x, mask, centers), NONE)


@jax.jit
def _look_only(x: Array, mask: Array, centers: Array) -> Array:
    return look(x, mask, centers, sums=False).ids


def _ready(x: Array, mask: Array, cosine: bool) -> tuple[Array, Array]:
    """Rows of norm 1, or about their mean, and that mean `[d]`."""
    if cosine:
        return _unit(x), jnp.zeros(x.shape[1], x.dtype)
    # About the mean, |x|^2 - 2 x c + |c|^2 loses nothing to a common offset.
    count = jnp.maximum(jnp.sum(mask, dtype=x.dtype), 1)
    middle = jnp.matmul(mask.astype(x.dtype)[None], x, precision=jax.lax.Precision.HIGHEST)[0]
    middle = middle / count
    return jnp.where(mask[:, None], x - middle[None], 0), middle


def _unit(x: Array) -> Array:
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=1, keepdims=True))
    return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), 0)


def _variance(x: Array, mask: Array) -> Array:
    """The mean over features of the variance over present clients, `()`."""
    weight = mask.astype(x.dtype)[:, None]
    count = jnp.maximum(jnp.sum(weight), 1)
    middle = jnp.sum(x * weight, axis=0) / count
    return jnp.mean(jnp.sum(jnp.square(x) * weight, axis=0) / count - jnp.square(middle))


def _means(x: Array, seen: Pass, before: Array, cosine: bool) -> Array:
    """New centers; those of empty groups at the farthest clients."""
    k = before.shape[0]
    filled = seen.counts > 0
    means = seen.sums / jnp.where(filled, seen.counts, 1)[:, None]
    if cosine:
        filled = filled & (jnp.sum(jnp.square(means), axis=1) > 0)
        means = _unit(means)
    means = jnp.where(filled[:, None], means, before)
    empty = seen.counts == 0

    def reseed() -> Array:
        far, at = jax.lax.top_k(seen.square, k)
        rank = jnp.clip(jnp.cumsum(empty) - 1, 0, k - 1)
        use = empty & (far[rank] > 0)
        return jnp.where(use[:, None], x[at[rank]], means)

    return jax.lax.cond(jnp.any(empty), reseed, lambda: means)
