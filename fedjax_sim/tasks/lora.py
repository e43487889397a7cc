"""Low-rank factors beside the kernels of a frozen model."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core.keys import fold_in
from fedjax_sim.core.types import Array, Model, PyTree


class Factors(NamedTuple):
    """What is added to a kernel `[..., in, out]`, seen as a matrix of `rows` x `out`.

    Attributes:
      a: `[rows, r]`, rows = all axes but the last.
      b: `[r, out]`.
    """

    a: Array
    b: Array


class Adapted(NamedTuple):
    """What such a client receives.

    Attributes:
      base: the frozen parameters.
      model: `Model` whose params are the factors.
    """

    base: PyTree
    model: Model


def no_factors(params: PyTree, rank: int) -> tuple[Any, ...]:
    """Factors of 0 for every leaf of two axes or more, `()` for the others.

    Args:
      params: arrays, or their shapes.
      rank: r, or fewer where a kernel is smaller.
    """

    def one(leaf: Any) -> Any:
        if leaf.ndim < 2:
            return ()
        rows, out = math.prod(leaf.shape[:-1]), leaf.shape[-1]
        r = min(rank, rows, out)
        return Factors(jnp.zeros((rows, r), leaf.dtype), jnp.zeros((r, out), leaf.dtype))

    return tuple(one(leaf) for leaf in jax.tree.leaves(params))


def drawn(key: Array, factors: tuple[Any, ...]) -> tuple[Any, ...]:
    """Every `a` drawn from N(0, 1 / rows), every `b` 0: the model is as it was."""

    def one(i: int, f: Any) -> Any:
        if not isinstance(f, Factors):
            return f
        noise = jax.random.normal(fold_in(key, i), f.a.shape, f.a.dtype)
        return f._replace(a=noise / jnp.asarray(math.sqrt(f.a.shape[0]), f.a.dtype))

    return tuple(one(i, f) for i, f in enumerate(factors))


def merged(params: PyTree, factors: tuple[Any, ...], alpha: Array | float) -> PyTree:
    """`W + (alpha / r) a b` for every kernel, the rest as it is."""
    leaves, structure = jax.tree.flatten(params)

    def one(leaf: Array, f: Any) -> Array:
        if not isinstance(f, Factors):
            return leaf
        scale = jnp.asarray(alpha, leaf.dtype) / jnp.asarray(f.b.shape[0], leaf.dtype)
        return leaf + (scale * (f.a @ f.b)).reshape(leaf.shape)

    return jax.tree.unflatten(structure, map(one, leaves, factors))
