"""Directions in parameter space: unit vectors, points of a ball, products of two trees."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.keys import fold_in
from fedjax_sim.core.types import Array, PyTree


def dot(a: PyTree, b: PyTree) -> Array:
    """Inner product of two trees, a scalar of the default float.

    Leaves narrower than float32 are multiplied in float32.
    """

    def one(x: Array, y: Array) -> Array:
        wide = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
        return jnp.sum(x.astype(wide) * y.astype(wide))

    products = jax.tree.leaves(jax.tree.map(one, a, b))
    return sum(products, start=jnp.zeros(()))


def norm(a: PyTree) -> Array:
    """Euclidean norm of a tree, a scalar of the default float."""
    return jnp.sqrt(dot(a, a))


def add_scaled(a: PyTree, b: PyTree, factor: Array) -> PyTree:
    """Leafwise `a + factor b` in the dtypes of `a`."""
    return jax.tree.map(lambda x, y: x + (y * factor.astype(y.dtype)).astype(x.dtype), a, b)


def unit(a: PyTree) -> PyTree:
    """`a / |a|`; a tree of zeros stays one."""
    length = norm(a)
    return tree.scale(a, jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0))


def on_sphere(key: Array, like: PyTree) -> PyTree:
    """A direction drawn uniformly from the unit sphere.

    Args:
      key: one key; leaf i draws from `fold_in(key, i)`.
      like: a tree of floating arrays, whose shapes and dtypes the direction has.
    """
    leaves, form = jax.tree.flatten(like)
    draws = [
        jax.random.normal(fold_in(key, i), leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)
    ]
    return unit(jax.tree.unflatten(form, draws))


def in_ball(key: Array, like: PyTree, radius: Array | float) -> PyTree:
    """A point drawn uniformly from the ball of that radius around zero.

    A direction on the sphere, at distance `radius u^(1/P)` with u uniform in (0, 1): in high
    dimension nearly always close to the surface.

    Args:
      key: one key.
      like: a tree of floating arrays.
      radius: in the units of the parameters.
    """
    size = tree.n_entries(like)
    direction = on_sphere(fold_in(key, 0), like)
    distance = jax.random.uniform(fold_in(key, 1)) ** (1.0 / size)
    return tree.scale(direction, radius * distance)
