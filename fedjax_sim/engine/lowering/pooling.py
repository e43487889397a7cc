"""Pooling windows as slices, and the gradient of a maximum over disjoint windows.

XLA:CPU runs `reduce_window` and `select_and_scatter` element by element; slices and
comparisons over the channels are vectorized.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.core.types import Array

_FOLDS: dict[str, tuple[Callable[[Array, Array], Array], Callable[[Any], Any]]] = {
    "reduce_window_max": (jnp.maximum, lambda dtype: _lowest(dtype)),
    "reduce_window_sum": (jnp.add, lambda dtype: 0),
}
NAMES = (*_FOLDS, "select_and_scatter_add", "select_and_gather_add")
_MOST_POSITIONS = 36


def replacement(eqn: Any) -> Callable[..., Array] | None:
    """What stands in for a pooling equation, or None.

    `reduce_window_max` and `reduce_window_sum` are rewritten for windows of up to 36 entries
    without dilation, overlapping or not, padded or not. The gradient of a maximum and its
    tangent are rewritten for disjoint windows without padding, with the first of equal
    entries chosen as XLA does, NaN included. All else is left alone.
    """
    p = eqn.params
    window, strides = p["window_dimensions"], p["window_strides"]
    dilations = (*p.get("base_dilation", ()), *p.get("window_dilation", ()))
    if any(d != 1 for d in dilations) or not 1 < math.prod(window) <= _MOST_POSITIONS:
        return None
    if not jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.floating):
        return None
    if eqn.primitive.name in _FOLDS:
        fold, empty = _FOLDS[eqn.primitive.name]
        return lambda x: _fold(x, fold, empty(x.dtype), window, strides, p["padding"])
    disjoint = all(s == w for s, w in zip(strides, window, strict=True))
    padded = any(lo or hi for lo, hi in p["padding"])
    if not disjoint or padded or p["select_prim"] is not jax.lax.ge_p:
        return None
    if eqn.primitive.name == "select_and_scatter_add":
        return lambda source, operand: _scatter(source, operand, window)
    return lambda tangents, operand: _gather(tangents, operand, window)


def _lowest(dtype: Any) -> Any:
    return -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def _positions(window: Sequence[int]) -> list[tuple[int, ...]]:
    """The entries of a window in the order in which XLA visits them."""
    return list(itertools.product(*map(range, window)))


def _corners(
    x: Array, window: Sequence[int], strides: Sequence[int], out: Sequence[int]
) -> list[Array]:
    """For each entry of the window, that entry of every window: strided slices of `out`."""

    def corner(at: tuple[int, ...]) -> Array:
        stop = [a + (n - 1) * s + 1 for a, n, s in zip(at, out, strides, strict=True)]
        return jax.lax.slice(x, at, stop, strides)

    return [corner(at) for at in _positions(window)]


def _fold(
    x: Array,
    fold: Callable[[Array, Array], Array],
    empty: Any,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> Array:
    if any(lo or hi for lo, hi in padding):
        config = [(int(lo), int(hi), 0) for lo, hi in padding]
        x = jax.lax.pad(x, jnp.asarray(empty, x.dtype), config)
    out = [(n - w) // s + 1 for n, w, s in zip(x.shape, window, strides, strict=True)]
    if min(out) <= 0:
        return jnp.zeros([max(n, 0) for n in out], x.dtype)
    first, *rest = _corners(x, window, strides, out)
    for corner in rest:
        first = fold(first, corner)
    return first


def _chosen(operand: Array, window: Sequence[int], out: Sequence[int]) -> Array:
    """Which entry of each window holds its maximum, int32 like one pooled value a window."""
    first, *rest = _corners(operand, window, window, out)
    best, at = first, jnp.zeros(first.shape, jnp.int32)
    for i, corner in enumerate(rest, start=1):
        stays = best >= corner  # as XLA: the first of equals stays, a NaN gives way
        best, at = jnp.where(stays, best, corner), jnp.where(stays, at, i)
    return at


def _scatter(source: Array, operand: Array, window: Sequence[int]) -> Array:
    """Each window's `source` at the place of its maximum, 0 elsewhere; shaped as `operand`.

    The barrier has the choice made once, for all places of the window.
    """
    at = jax.lax.optimization_barrier(_chosen(operand, window, source.shape))
    nothing = jnp.zeros((), source.dtype)
    places = [jnp.where(at == i, source, nothing) for i in range(math.prod(window))]
    for axis in reversed(range(operand.ndim)):
        places = _interleaved(places, window[axis], axis)
    (out,) = places
    rest = [(0, have - n, 0) for have, n in zip(operand.shape, out.shape, strict=True)]
    return jax.lax.pad(out, nothing, rest) if any(r[1] for r in rest) else out


def _interleaved(parts: list[Array], count: int, axis: int) -> list[Array]:
    """Weave each run of `count` arrays into one along `axis`, entry by entry."""
    if count == 1:
        return parts
    shape = list(parts[0].shape)
    shape[axis] *= count
    runs = [parts[i : i + count] for i in range(0, len(parts), count)]
    return [jnp.stack(run, axis + 1).reshape(shape) for run in runs]


def _gather(tangents: Array, operand: Array, window: Sequence[int]) -> Array:
    """The tangent at the place of each window's maximum."""
    out = [n // w for n, w in zip(operand.shape, window, strict=True)]
    at = _chosen(operand, window, out)
    first, *rest = _corners(tangents, window, window, out)
    for i, corner in enumerate(rest, start=1):
        first = jnp.where(at == i, corner, first)
    return first
