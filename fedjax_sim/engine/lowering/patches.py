"""A convolution as matrix products over slices, which `vmap` turns into batched products."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from fedjax_sim.core.types import Array

if TYPE_CHECKING:
    from fedjax_sim.engine.lowering.convolution import Spec

_MOST_POSITIONS = 128


def as_products(spec: Spec) -> Callable[[Array, Array], Array] | None:
    """Slices of the padded input times the kernel, as one product.

    The window is unrolled (im2col) or, where the output is smaller than the window as in a
    kernel's gradient, the output is. None where both have more than 128 positions.
    """
    window = [spec.rhs_shape[a] for a in spec.rhs[2:]]
    out = [spec.out_shape[a] for a in spec.out[2:]]
    if min(math.prod(window), math.prod(out)) > _MOST_POSITIONS:
        return None
    by_window = math.prod(window) <= math.prod(out)

    def convolve(x: Array, w: Array) -> Array:
        x = _padded(jnp.transpose(x, (spec.lhs[0], *spec.lhs[2:], spec.lhs[1])), spec)
        w = jnp.transpose(w, (*spec.rhs[2:], spec.rhs[1], spec.rhs[0]))
        y = _by_window(x, w, spec, out) if by_window else _by_output(x, w, spec, out)
        order = [0] * y.ndim
        for place, axis in enumerate((spec.out[0], *spec.out[2:], spec.out[1])):
            order[axis] = place
        return jnp.transpose(y, order)

    return convolve


def _padded(x: Array, spec: Spec) -> Array:
    """`[N, *spatial, C]` with zeros between (left dilation) and around."""
    inner = [d - 1 for d in spec.params["lhs_dilation"]]
    around = spec.params["padding"]
    config = [(int(lo), int(hi), i) for (lo, hi), i in zip(around, inner, strict=True)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def _by_window(x: Array, w: Array, spec: Spec, out: list[int]) -> Array:
    """For each place in the window a slice of outputs: `[N, *out, places x C] @ [.., O]`."""
    strides, dilation = spec.params["window_strides"], spec.params["rhs_dilation"]
    window = w.shape[:-2]
    slices = []
    for at in itertools.product(*map(range, window)):
        start = [a * d for a, d in zip(at, dilation, strict=True)]
        slices.append(_sliced(x, start, out, strides))
    patches = jnp.concatenate(slices, axis=-1)
    kernel = w.reshape(-1, w.shape[-1])
    return jnp.matmul(patches, kernel, precision=spec.params["precision"])


def _by_output(x: Array, w: Array, spec: Spec, out: list[int]) -> Array:
    """For each output a slice of the window: `[N, outputs, window x C] @ [.., O]`."""
    strides, dilation = spec.params["window_strides"], spec.params["rhs_dilation"]
    window = w.shape[:-2]
    slices = []
    for at in itertools.product(*map(range, out)):
        start = [a * s for a, s in zip(at, strides, strict=True)]
        part = _sliced(x, start, list(window), dilation)
        slices.append(part.reshape(x.shape[0], -1))
    patches = jnp.stack(slices, axis=1)
    y = jnp.matmul(patches, w.reshape(-1, w.shape[-1]), precision=spec.params["precision"])
    return y.reshape(x.shape[0], *out, w.shape[-1])


def _sliced(x: Array, start: list[int], size: list[int], strides: tuple[int, ...]) -> Array:
    """`size` entries of every spatial axis from `start` on, `strides` apart."""
    stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, size, strides, strict=True)]
    return jax.lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))
