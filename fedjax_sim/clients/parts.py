"""A part of a model: some units of every width, cut out, put back, or masked."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Array, Model, PyTree
from fedjax_sim.tasks.axes import Axis, Layout

Window: TypeAlias = Array | int
"""Index of the first unit that a part holds; from there on, round the end to the first again."""

Held: TypeAlias = tuple[tuple[Any, ...], ...]
"""For each leaf and axis which entries a client holds: bool `[axis]`, or `()` for all of them."""


def kept(layout: Layout, ratio: float) -> tuple[int, ...]:
    """Units of each width that a part of this ratio has: `ceil(ratio n)`."""
    return tuple(math.ceil(ratio * n - 1e-9) for n in layout.sizes)


def cut(layout: Layout, model: Model, counts: Sequence[int], first: Window = 0) -> Model:
    """The part as a model of its own, with smaller arrays.

    Args:
      layout: of the model.
      model: whole.
      counts: units of each width.
      first: the window's first unit, modulo each width.
    """

    def one(leaf: Array, axes: tuple[Axis, ...]) -> Array:
        def take(x: Array, at: int, width: int, size: int) -> Array:
            x = _rolled(x, first, size, at, -1)
            return jax.lax.slice_in_dim(x, 0, counts[width], axis=at)

        return _by_factor(leaf, axes, take, layout.sizes, counts)

    return _each(one, layout, model)


def put_back(layout: Layout, part: Model, counts: Sequence[int], first: Window = 0) -> Model:
    """The whole model's shape with the part in its place, 0 elsewhere; undoes `cut`."""

    def one(leaf: Array, axes: tuple[Axis, ...]) -> Array:
        def give(x: Array, at: int, width: int, size: int) -> Array:
            pad = [(0, 0, 0)] * x.ndim
            pad[at] = (0, size - counts[width], 0)
            x = jax.lax.pad(x, jnp.zeros((), x.dtype), pad)
            return _rolled(x, first, size, at, 1)

        return _by_factor(leaf, axes, give, counts, layout.sizes)

    return _each(one, layout, part)


def held(
    layout: Layout, counts: Array | None, first: Window = 0, labels: Array | None = None
) -> Held:
    """Which entries of each axis a part holds.

    Args:
      layout: of the model.
      counts: int32 `[widths]`, possibly traced; None for all units.
      first: the window's first unit.
      labels: bool `[C]`: only these outputs' entries are held; None for all.
    """

    def axis(a: Axis) -> Any:
        if a.output:
            return () if labels is None else labels
        if counts is None or all(w < 0 for w in a.widths):
            return ()
        factors = zip(a.sizes, a.widths, strict=True)
        return functools.reduce(_outer, [_factor(n, w, counts, first) for n, w in factors])

    return tuple(tuple(axis(a) for a in leaf) for leaf in layout.axes)


def masked(model: Model, holds: Held) -> Model:
    """The model with 0 where it is not held, also where it was NaN."""
    leaves, structure = jax.tree.flatten(model)
    done = [jnp.where(mask_of(h, x.ndim), x, 0) for x, h in zip(leaves, holds, strict=True)]
    return jax.tree.unflatten(structure, done)


def mask_of(axes: Sequence[Any], ndim: int) -> Array:
    """One leaf's mask, with length 1 along axes that are held whole."""
    mask = jnp.ones((1,) * ndim, bool)
    for at, held in enumerate(axes):
        if not isinstance(held, tuple):
            mask = mask & held.reshape((1,) * at + held.shape + (1,) * (ndim - at - 1))
    return mask


def outputs_of(layout: Layout) -> int:
    """C, the number of the model's outputs.

    Raises:
      InputError: where no parameter belongs to a single output.
    """
    for leaf in layout.axes:
        for axis in leaf:
            if axis.output:
                return math.prod(axis.sizes)
    remedy = 'needs a model whose last layer has an axis of outputs; labels="all" does without'
    raise InputError("algorithm.labels", "own", remedy)


def _each(one: Callable[..., Array], layout: Layout, model: Model) -> Model:
    leaves, structure = jax.tree.flatten(model)
    done = [one(leaf, axes) for leaf, axes in zip(leaves, layout.axes, strict=True)]
    return jax.tree.unflatten(structure, done)


def _by_factor(
    leaf: Array,
    axes: tuple[Axis, ...],
    change: Callable[..., Array],
    before: Sequence[int],
    after: Sequence[int],
) -> Array:
    """Apply `change(x, at, width, size)` to every factor that is a width."""
    if all(w < 0 for a in axes for w in a.widths):
        return leaf

    def sizes(a: Axis, counts: Sequence[int]) -> list[int]:
        return [n if w < 0 else counts[w] for n, w in zip(a.sizes, a.widths, strict=True)]

    leaf = leaf.reshape([n for a in axes for n in sizes(a, before)])
    factors = [(n, w) for a in axes for n, w in zip(a.sizes, a.widths, strict=True)]
    for at, (n, w) in enumerate(factors):
        if w >= 0:
            leaf = change(leaf, at, w, n)
    return leaf.reshape([math.prod(sizes(a, after)) for a in axes])


def _rolled(x: Array, first: Window, size: int, at: int, sign: int) -> Array:
    if isinstance(first, int):
        return x if first % size == 0 else jnp.roll(x, sign * (first % size), at)
    return jnp.roll(x, sign * (first % size), at)


def _factor(n: int, width: int, counts: Array, first: Window) -> Array:
    if width < 0:
        return jnp.ones(n, bool)
    return (jnp.arange(n, dtype=jnp.int32) - first) % n < counts[width]


def _outer(a: Array, b: Array) -> Array:
    return (a[:, None] & b[None, :]).reshape(-1)


def share(holds: Held, model: PyTree) -> Array:
    """Share of the parameters that are held, a float scalar."""
    total, mine = 0, jnp.zeros(())
    for leaf, axes in zip(jax.tree.leaves(model), holds, strict=True):
        count = jnp.ones(())
        for n, h in zip(leaf.shape, axes, strict=True):
            count = count * (n if isinstance(h, tuple) else jnp.sum(h).astype(count.dtype))
        total, mine = total + leaf.size, mine + count
    return mine / max(total, 1)
