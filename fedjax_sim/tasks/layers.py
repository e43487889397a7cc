"""Dense, convolution and pooling layers as plain functions over dicts of arrays.

No module library is imported, so a command that uses only the built-in models starts fast.
Shapes are explicit everywhere: rank promotion may be forbidden.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_sim.core.checks import InputError, choice
from fedjax_sim.core.types import Array

INITS = ("he", "lecun", "glorot", "torch", "zeros")
"""Weights: truncated normal of variance 2 / fan_in (`he`) or 1 / fan_in (`lecun`), uniform
Glorot, `U(-1/sqrt(fan_in), 1/sqrt(fan_in))` (`torch`, which draws biases the same way), or 0.
Biases are 0 except under `torch`."""


def weights(key: Array, shape: tuple[int, ...], init: str, dtype: jnp.dtype) -> Array:
    """Draw a kernel `[..., in, out]` by one of `INITS`.

    Raises:
      InputError: when `init` is not one of `INITS`.
    """
    choice("init", init, INITS)
    rules = {
        "he": jax.nn.initializers.he_normal(),
        "lecun": jax.nn.initializers.lecun_normal(),
        "glorot": jax.nn.initializers.glorot_uniform(),
        "torch": jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        "zeros": jax.nn.initializers.zeros,
    }
    return rules[init](key, shape, dtype)


def bias(key: Array, size: int, fan_in: int, init: str, dtype: jnp.dtype) -> Array:
    """Draw a bias `[size]`: zeros, or uniform within `1/sqrt(fan_in)` under `torch`."""
    if init != "torch":
        return jnp.zeros((size,), dtype)
    bound = 1 / math.sqrt(fan_in)
    return jax.random.uniform(key, (size,), dtype, -bound, bound)


def affine(key: Array, shape: tuple[int, ...], init: str, dtype: jnp.dtype) -> dict[str, Array]:
    """Parameters of a dense layer or a convolution.

    Args:
      key: random key.
      shape: `(in, out)`, or `(height, width, in, out)`.
      init: one of `INITS`.
      dtype: of the arrays.

    Returns:
      `{"w": [*shape], "b": [out]}`.
    """
    key_w, key_b = jax.random.split(key)
    fan_in = math.prod(shape[:-1])
    return {
        "w": weights(key_w, shape, init, dtype),
        "b": bias(key_b, shape[-1], fan_in, init, dtype),
    }


def dense(layer: dict[str, Array], x: Array) -> Array:
    """Return `x @ w + b` for x `[..., in]`; `[..., out]`."""
    b = layer["b"]
    return x @ layer["w"] + b.reshape((1,) * (x.ndim - 1) + b.shape)


def conv(layer: dict[str, Array], x: Array, padding: str) -> Array:
    """Convolve x `[B, H, W, in]` with `w [h, w, in, out]` at stride 1.

    Stock NHWC/HWIO order: the engine's lowering recognises it and makes its gradients fast.

    Args:
      layer: parameters from `affine`.
      x: images `[B, H, W, in]`.
      padding: `"SAME"` or `"VALID"`.

    Returns:
      `[B, H', W', out]`.
    """
    y = lax.conv_general_dilated(
        x, layer["w"], (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + layer["b"][None, None, None, :]


def max_pool_2x2(x: Array) -> Array:
    """Maximum over disjoint 2x2 windows of x `[B, H, W, C]`; `[B, H // 2, W // 2, C]`.

    The stock operation: the engine's lowering recognises it and its gradient. An odd last
    row or column is left out.

    Raises:
      InputError: when no whole window fits.
    """
    _, h, w, c = x.shape
    if min(h, w) < 2:
        raise InputError("x_shape", (h, w, c), "nothing is left to pool: images are too small")
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def as_images(x: Array) -> Array:
    """Give x a channel axis: `[B, H, W]` or `[B, H, W, C]` to `[B, H, W, C]`.

    Raises:
      InputError: when x is neither.
    """
    if x.ndim not in (3, 4):
        raise InputError("x_shape", x.shape[1:], "must be (height, width[, channels]) here")
    return x if x.ndim == 4 else x[..., None]


def float_dtype(x: Array) -> jnp.dtype:
    """Dtype of parameters for inputs x: that of x when floating, else the default float."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.result_type(float)
