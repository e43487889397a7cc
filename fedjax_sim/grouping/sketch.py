"""Random projections of pytrees: what N updates of P numbers are compared by."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.keys import fold_in
from fedjax_sim.core.types import Array, PyTree

_WORD = 32


def sketch_tree(key: Array, tree: PyTree, dim: int, *, normalize: bool = False) -> Array:
    """A linear sketch `[dim]` of all floating leaves of `tree`, inner products kept on average.

    Every leaf is cut into rows of `dim` entries; each row is multiplied by random signs, rotated
    by a random offset, and the rows are added up: a count sketch whose buckets are drawn
    a row at a time. Two entries share a bucket with probability at most 1/dim, so

        E <s(a), s(b)> = <a, b>,   Var <s(a), s(b)> <= (|a|^2 |b|^2 + <a, b>^2) / dim.

    The same key is the same projection, whatever the values: clients that are to be compared use
    one key. Works in jit and vmap (over trees; keep the key unbatched).

    Args:
      key: what draws signs and rotations.
      tree: pytree of arrays; integer and bool leaves are left out.
      dim: length of the sketch.
      normalize: divide the sketch by its norm (a sketch of zeros stays zero).

    Returns:
      `[dim]`, float32 or the widest float among the leaves.

    Raises:
      InputError: no floating leaf, or `dim` below 1.
    Cost: O(P) time; P/32 random words; no P x dim matrix.
    Reference: Charikar, Chen, Farach-Colton, Finding Frequent Items in Data Streams, 2002;
      ours draws buckets by rotation of a row instead of one by one.
    """
    integer("dim", dim, least=1)
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(tree)]
    numbered = [(i, x) for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]
    if not any(x.size for _, x in numbered):
        raise InputError("tree", "no floating numbers", "must have at least one floating leaf")
    dtype = jnp.result_type(jnp.float32, *(x.dtype for _, x in numbered))
    total = jnp.zeros(dim, dtype)
    for i, leaf in numbered:
        if leaf.size:
            total = total + _sketch_leaf(fold_in(key, i), leaf.reshape(-1).astype(dtype), dim)
    if not normalize:
        return total
    norm = jnp.sqrt(jnp.sum(jnp.square(total)))
    return jnp.where(norm > 0, total / jnp.where(norm > 0, norm, 1), 0)


def sketch_rows(key: Array, x: Array, dim: int, *, normalize: bool = False) -> Array:
    """`sketch_tree` of each row of `x` `[N, P]` under one key: `[N, dim]`."""
    return _sketch_rows(key, jnp.asarray(x), dim, normalize)


@functools.partial(jax.jit, static_argnames=("dim", "normalize"))
def _sketch_rows(key: Array, x: Array, dim: int, normalize: bool) -> Array:
    return jax.vmap(lambda row: sketch_tree(key, row, dim, normalize=normalize))(x)


@functools.partial(jax.jit, static_argnames="dim")
def _sketch_leaf(key: Array, flat: Array, dim: int) -> Array:
    rows = -(-flat.size // dim)
    padded = jnp.pad(flat, (0, rows * dim - flat.size)).reshape(rows, dim)
    signs, offsets = _projection(key, rows, dim)
    signed = jnp.where(signs, padded, -padded)
    source = (jnp.arange(dim)[None] + offsets[:, None]) % dim
    return jnp.sum(jnp.take_along_axis(signed, source, axis=1), axis=0)


def _projection(key: Array, rows: int, dim: int) -> tuple[Array, Array]:
    """Signs as bool `[rows, dim]`, one random bit each, and offsets int32 `[rows]`."""
    words = -(-dim // _WORD)
    bits = jax.random.bits(key, (rows, words + 1), jnp.uint32)
    shifts = jnp.arange(_WORD, dtype=jnp.uint32)
    signs = (bits[:, :words, None] >> shifts[None, None]) & jnp.uint32(1)
    signs = signs.reshape(rows, words * _WORD)[:, :dim].astype(bool)
    return signs, (bits[:, words] % jnp.uint32(dim)).astype(jnp.int32)
