"""What comes first, said so that the compiler sees it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.core.types import Array, PyTree


def after(values: PyTree, earlier: PyTree) -> PyTree:
    """`values`, bit for bit, known only once all of `earlier` is; on CPUs, elsewhere as they are.

    A loop writes a carried buffer in place where every read of it comes first by necessity. Where
    that is by chance the compiler copies the buffer at each turn, and it drops JAX's optimization
    barriers before it decides. So that the order be a necessity each leaf is selected by a truth
    that takes one entry of every leaf of `earlier` to know, which costs nothing where the leaf is
    computed by entries anyway.

    Args:
      values: arrays.
      earlier: arrays, none of which depends on what is made of the result.
    """
    if jax.default_backend() != "cpu":
        return values
    known = _known(jax.tree.leaves(earlier))
    return jax.tree.map(lambda v: jnp.where(known, v, jnp.zeros_like(v)), values)


def when(true: Array, change: Callable[[PyTree], PyTree], values: PyTree) -> PyTree:
    """`change(values)` where `true`, else `values` as they are, in place.

    A `cond` copies whatever a branch hands through; this is a loop of one turn or none, which
    copies nothing where `values` are not needed afterwards. For what happens now and then.

    Args:
      true: bool.
      change: keeps shapes and types.
      values: arrays.
    """

    def turn(at: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
        return jnp.zeros_like(at[0]), change(at[1])

    return jax.lax.while_loop(lambda at: at[0], turn, (true, values))[1]


def _known(leaves: list[Any]) -> Array:
    """True, by way of an entry of each leaf."""
    bits = [_bits(leaf) for leaf in leaves if leaf.size]
    return (functools.reduce(jnp.bitwise_or, bits, jnp.uint32(0)) & 1) < 2


def _bits(leaf: Any) -> Array:
    """Some bits of a leaf's first entry, which nothing but the entry tells."""
    first = jax.lax.slice(leaf, (0,) * leaf.ndim, (1,) * leaf.ndim).reshape(())
    if jnp.issubdtype(first.dtype, jnp.floating):
        kinds = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}
        first = jax.lax.bitcast_convert_type(first, kinds[first.dtype.itemsize])
    return first.astype(jnp.uint32)
