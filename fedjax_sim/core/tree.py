"""Arithmetic on pytrees of arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_sim.core.types import Array, PyTree


def add(a: PyTree, b: PyTree) -> PyTree:
    """Leafwise `a + b`."""
    return jax.tree.map(jnp.add, a, b)


def sub(a: PyTree, b: PyTree) -> PyTree:
    """Leafwise `a - b`."""
    return jax.tree.map(jnp.subtract, a, b)


def scale(tree: PyTree, factor: Array | float) -> PyTree:
    """Leafwise `tree * factor`, each leaf keeping its dtype."""
    return jax.tree.map(lambda x: x * jnp.asarray(factor, x.dtype), tree)


def zeros(tree: PyTree) -> PyTree:
    """Zeros shaped like `tree` (arrays or `jax.ShapeDtypeStruct`)."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)


def where(condition: Array, a: PyTree, b: PyTree) -> PyTree:
    """Leafwise select by a scalar bool."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def where_rows(condition: Array, a: PyTree, b: PyTree) -> PyTree:
    """Leafwise select by a bool `[n]` over the leading axis."""

    def pick(x: Array, y: Array) -> Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (x.ndim - 1)), x, y)

    return jax.tree.map(pick, a, b)


def take(tree: PyTree, index: Array) -> PyTree:
    """Leafwise `leaf[index]` along the leading axis."""
    return jax.tree.map(lambda x: x[index], tree)


def squared_norm(tree: PyTree) -> Array:
    """Sum of squares of every entry, a float scalar."""
    leaves = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)]
    return sum(leaves, start=jnp.zeros(()))


def n_bytes(tree: PyTree) -> int:
    """Bytes held by a tree of arrays or shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def n_entries(tree: PyTree) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(x.size for x in jax.tree.leaves(tree))


def strong(tree: PyTree) -> PyTree:
    """Strip weak types, so that a carried state never changes type and recompiles."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), tree)


def as_before(new: PyTree, old: PyTree) -> PyTree:
    """Leafwise `new` in the dtypes of `old`.

    A state that is carried keeps its precision, also where a traced number of the default
    float met a model of a narrower one.
    """
    return jax.tree.map(lambda n, o: n if n.dtype == o.dtype else n.astype(o.dtype), new, old)


def shapes(tree: PyTree) -> PyTree:
    """`jax.ShapeDtypeStruct` of every leaf."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree)
