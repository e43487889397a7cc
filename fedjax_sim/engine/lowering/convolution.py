"""Convolutions in the order that XLA's fast kernels know, in pieces, and on lanes.

Axes are named by role, as in `lax.ConvDimensionNumbers`: the left input has (batch, feature,
*spatial), the kernel (output feature, input feature, *spatial). In the gradient of a kernel
the roles are turned: images are the batch of channels, and examples are the features that
are summed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from fedjax_sim.core.types import Array
from fedjax_sim.engine.lowering.patches import as_products

Convolve = Callable[[Array, Array], Array]

# A piece does at least this much, so that the loop around it does not show (about 10 us) ...
_LEAST_FLOP = 2e6
# ... and this much for each byte that adding its result moves.
_FLOP_A_BYTE = 300
# Inputs and outputs above the first are cut to pieces of about the second.
_TOO_LARGE_BYTES, _PIECE_BYTES = 2**20, 2**18
# Windows of so few numbers (the first layer's, of one or three channels) are copied out: the
# fast kernels read 16 channels at a time.
_THIN = 64


class Spec(NamedTuple):
    """A convolution without its inputs.

    Attributes:
      params: of `conv_general_dilated`, ready for `lax`.
      lhs, rhs, out: `(batch, feature, *spatial)` axes; for rhs `(out, in, *spatial)`.
      lhs_shape, rhs_shape, out_shape: shapes.
    """

    params: dict[str, Any]
    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    out: tuple[int, ...]
    lhs_shape: tuple[int, ...]
    rhs_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    @property
    def is_canonical(self) -> bool:
        """Whether the order is NHWC, HWIO, NHWC already."""
        rank = len(self.lhs)
        images = (0, rank - 1, *range(1, rank - 1))
        return self.lhs == self.out == images and self.rhs == (
            rank - 1,
            rank - 2,
            *range(rank - 2),
        )

    @property
    def flop(self) -> float:
        """Of the whole convolution, dilation's zeros included."""
        return 2.0 * math.prod(self.out_shape) * self.window

    @property
    def window(self) -> int:
        """Numbers under one window: places times input features."""
        return math.prod(self.rhs_shape) // self.rhs_shape[self.rhs[0]]

    @property
    def sums_examples(self) -> bool:
        """Whether it is the gradient of a kernel: the window is larger than the output."""
        window = math.prod(self.rhs_shape[a] for a in self.rhs[2:])
        return window > math.prod(self.out_shape[a] for a in self.out[2:])


def replacement(eqn: Any, lanes: str, *, micro: bool) -> Convolve | None:
    """What stands in for a convolution, or None where it is left alone.

    Rewritten: float32, one to three spatial axes, any stride, padding, dilation and order of
    axes. Left alone, and so batched as jax does it: grouped convolutions and other dtypes,
    for which XLA:CPU has no fast kernel in any order.
    """
    p = eqn.params
    lhs, rhs = (v.aval for v in eqn.invars)
    groups = (p["feature_group_count"], p["batch_group_count"])
    if groups != (1, 1) or not 3 <= lhs.ndim <= 5:
        return None
    if any(v.dtype != jnp.float32 for v in (lhs, rhs, eqn.outvars[0].aval)):
        return None
    if 0 in (lhs.size, rhs.size, eqn.outvars[0].aval.size):
        return None
    numbers = p["dimension_numbers"]
    keep = ("window_strides", "padding", "lhs_dilation", "rhs_dilation")
    params = {n: p[n] for n in (*keep, "precision", "preferred_element_type")}
    spec = Spec(
        params,
        tuple(numbers.lhs_spec),
        tuple(numbers.rhs_spec),
        tuple(numbers.out_spec),
        lhs.shape,
        rhs.shape,
        eqn.outvars[0].aval.shape,
    )
    if lanes == "products":
        return as_products(spec)
    convolve = _best(spec) if micro else _canonical(spec)
    return convolve if lanes == "grouped" else _lane_after_lane(convolve, spec)


def _best(spec: Spec) -> Convolve:
    """By the figures of docs/decisions/0003."""
    if spec.window <= _THIN and not spec.sums_examples:
        return as_products(spec) or _pieces(spec)
    return _pieces(spec)


def _canonical(spec: Spec) -> Convolve:
    """Transpose both inputs into canonical order, convolve, transpose back."""
    rank = len(spec.lhs)
    images = (0, rank - 1, *range(1, rank - 1))
    kernel = (rank - 1, rank - 2, *range(rank - 2))
    numbers = jax.lax.ConvDimensionNumbers(images, kernel, images)

    def convolve(x: Array, w: Array) -> Array:
        x = jnp.transpose(x, _order(spec.lhs, images))
        w = jnp.transpose(w, _order(spec.rhs, kernel))
        y = jax.lax.conv_general_dilated(x, w, dimension_numbers=numbers, **spec.params)
        return jnp.transpose(y, _order(images, spec.out))

    return convolve


def _order(have: tuple[int, ...], want: tuple[int, ...]) -> list[int]:
    """The permutation that brings each role from its axis in `have` to its axis in `want`."""
    order = [0] * len(have)
    for a, b in zip(have, want, strict=True):
        order[b] = a
    return order


def _pieces(spec: Spec) -> Convolve:
    """Piece after piece along the examples, where the whole would not stay in the cache."""
    whole = _canonical(spec)
    if spec.sums_examples:
        count = spec.lhs_shape[spec.lhs[1]]
        out_bytes = 4 * math.prod(spec.out_shape)
        least = max(_LEAST_FLOP, _FLOP_A_BYTE * out_bytes)
        size = _divisor(count, least * count / spec.flop)
        return whole if size == count else _summed(spec, count, size)
    count = spec.lhs_shape[spec.lhs[0]]
    moved = 4 * (math.prod(spec.lhs_shape) + math.prod(spec.out_shape))
    if moved <= _TOO_LARGE_BYTES:
        return whole
    least = max(_LEAST_FLOP * count / spec.flop, _PIECE_BYTES * count / moved)
    size = _divisor(count, least)
    return whole if size == count else _joined(spec, count, size)


def _divisor(count: int, least: float) -> int:
    """The smallest divisor of `count` that is at least `least`."""
    return next(d for d in range(1, count + 1) if count % d == 0 and (d >= least or d == count))


def _summed(spec: Spec, count: int, size: int) -> Convolve:
    """The sum over pieces of the summed feature axis: examples, in a kernel's gradient."""
    piece = _canonical(spec)
    lhs_axis, rhs_axis = spec.lhs[1], spec.rhs[1]

    def convolve(x: Array, w: Array) -> Array:
        def add(i: Array, total: Array) -> Array:
            part = jax.lax.dynamic_slice_in_dim(x, i * size, size, lhs_axis)
            kernel = jax.lax.dynamic_slice_in_dim(w, i * size, size, rhs_axis)
            return total + piece(part, kernel)

        return jax.lax.fori_loop(0, count // size, add, jnp.zeros(spec.out_shape, x.dtype))

    return convolve


def _joined(spec: Spec, count: int, size: int) -> Convolve:
    """Pieces of the batch axis, one after another into one output."""
    piece = _canonical(spec)
    lhs_axis, out_axis = spec.lhs[0], spec.out[0]

    def convolve(x: Array, w: Array) -> Array:
        def put(i: Array, out: Array) -> Array:
            part = jax.lax.dynamic_slice_in_dim(x, i * size, size, lhs_axis)
            made = piece(part, w)
            return jax.lax.dynamic_update_slice_in_dim(out, made, i * size, out_axis)

        return jax.lax.fori_loop(0, count // size, put, jnp.zeros(spec.out_shape, x.dtype))

    return convolve


def _lane_after_lane(convolve: Convolve, spec: Spec) -> Convolve:
    """Under `vmap`: a loop over lanes, or one convolution where the lanes share an input."""
    one: Any = custom_vmap(convolve)

    @one.def_vmap
    def lanes(axis_size: int, batched: list[bool], x: Array, w: Array) -> tuple[Array, bool]:
        if all(batched):
            return jax.lax.map(lambda pair: one(*pair), (x, w)), True
        if batched[0]:
            return _folded(spec, axis_size, x, w, shared="w"), True
        return _folded(spec, axis_size, x, w, shared="x"), True

    return one


def _folded(spec: Spec, lanes: int, x: Array, w: Array, *, shared: str) -> Array:
    """Lanes as more of the batch (they share the kernel) or of the output features."""
    role, axes = (0, spec.lhs) if shared == "w" else (1, spec.rhs)
    axis = axes[0]
    own = x if shared == "w" else w
    merged = _merge(own, axis)
    out_axis = spec.out[role]
    whole = spec._replace(
        lhs_shape=merged.shape if shared == "w" else spec.lhs_shape,
        rhs_shape=merged.shape if shared == "x" else spec.rhs_shape,
        out_shape=tuple(n * lanes if a == out_axis else n for a, n in enumerate(spec.out_shape)),
    )
    convolve = _lane_after_lane(_best(whole), whole)
    y = convolve(merged, w) if shared == "w" else convolve(x, merged)
    return _split(y, out_axis, lanes)


def _merge(x: Array, axis: int) -> Array:
    """`[L, ...]` with L folded into `axis` of the rest, lanes outermost."""
    moved = jnp.moveaxis(x, 0, axis)
    shape = (*x.shape[1 : axis + 1], x.shape[0] * x.shape[axis + 1], *x.shape[axis + 2 :])
    return moved.reshape(shape)


def _split(y: Array, axis: int, lanes: int) -> Array:
    """The inverse of `_merge`."""
    shape = (*y.shape[:axis], lanes, y.shape[axis] // lanes, *y.shape[axis + 1 :])
    return jnp.moveaxis(y.reshape(shape), axis, 0)
