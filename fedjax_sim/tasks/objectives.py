"""What a task scores: the loss of every example or position, which of them count, measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Array


class Objective(NamedTuple):
    """How outputs are compared with targets.

    Attributes:
      losses: `(outputs, y) -> float [B, ...]`, one loss an example or a position.
      counted: `(y, mask [B]) -> bool`, broadcast against the losses: which of them count.
      measures: `(outputs, y) -> {name: float [B, ...]}`, shaped like the losses.
      fits: `(outputs' shape) -> remedy`, empty when a model's outputs have the right shape.
    """

    losses: Callable[[Array, Array], Array]
    counted: Callable[[Array, Array], Array]
    measures: Callable[[Array, Array], dict[str, Array]]
    fits: Callable[[tuple[int, ...]], str]


def sum_where(values: Array, counted: Array) -> tuple[Array, Array]:
    """Sum of the counted values and their number, both in the values' dtype.

    Args:
      values: `[B, ...]`; what is not counted may be anything, NaN included.
      counted: bool, with the leading axes of `values`.

    Returns:
      Two scalars.
    """
    counted = expand(counted, values)
    total = jnp.sum(jnp.where(counted, values, 0))
    return total, jnp.sum(jnp.broadcast_to(counted, values.shape), dtype=values.dtype)


def mean_where(values: Array, counted: Array) -> Array:
    """Mean of the counted values; 0, with gradient 0, when nothing is counted."""
    total, count = sum_where(values, counted)
    return total / jnp.maximum(count, 1)


def expand(mask: Array, like: Array) -> Array:
    """Give `mask` trailing axes of length 1 up to the rank of `like`."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Softmax cross entropy in nats.

    `logsumexp(z) - (1 - s) z_y - s mean(z)`. A label outside `0 .. C-1` gives NaN instead of
    a plausible number.

    Args:
      logits: `[..., C]`.
      labels: integers `[...]`.
      smoothing: s in [0, 1).

    Returns:
      `[...]`.
    """
    n, labels = logits.shape[-1], labels.astype(jnp.int32)
    classes = jnp.arange(n, dtype=jnp.int32).reshape((1,) * labels.ndim + (n,))
    picked = jnp.sum(jnp.where(labels[..., None] == classes, logits, 0), axis=-1)
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * jnp.mean(logits, axis=-1)
    loss = jax.nn.logsumexp(logits, axis=-1) - picked
    return jnp.where((labels >= 0) & (labels < n), loss, jnp.nan)


def classes(n: int, *, smoothing: float = 0.0, ndim: int = 1, pad: int | None = None) -> Objective:
    """Cross entropy to one of n classes for every example or position.

    The measures are the cross entropy without smoothing and the accuracy.

    Args:
      n: number of classes.
      smoothing: label smoothing of the training loss.
      ndim: axes of the targets: 1 for `[B]`, 2 for `[B, T]`.
      pad: target value whose positions do not count, or None.

    Returns:
      The objective.
    """

    def losses(outputs: Array, y: Array) -> Array:
        return cross_entropy(outputs, _labels(y, outputs, pad), smoothing)

    def counted(y: Array, mask: Array) -> Array:
        return expand(mask, y) if pad is None else expand(mask, y) & (y != pad)

    def measures(outputs: Array, y: Array) -> dict[str, Array]:
        y = _labels(y, outputs, pad)
        right = jnp.argmax(outputs, axis=-1).astype(jnp.int32) == y
        return {"loss": cross_entropy(outputs, y), "accuracy": right.astype(outputs.dtype)}

    def fits(shape: tuple[int, ...]) -> str:
        wanted = f"[B{', T' * (ndim - 1)}, {n}]"
        right = len(shape) == ndim + 1 and shape[-1] == n
        return "" if right else f"gives outputs {list(shape)}, must give logits {wanted}"

    return Objective(losses, counted, measures, fits)


def squares(n: int) -> Objective:
    """Squared error, averaged over the n outputs of an example (as torch's `MSELoss`).

    The measures are `loss` and `mse`, which are the same, and `mae`.

    Args:
      n: number of outputs.

    Returns:
      The objective, for targets `[B, n]`, or `[B]` when n is 1.
    """

    def error(outputs: Array, y: Array) -> Array:
        y = y[:, None] if n == 1 and y.ndim == 1 else y
        if y.shape != outputs.shape:
            raise InputError("y", y.shape, f"targets must have the outputs' shape {outputs.shape}")
        return outputs - y.astype(outputs.dtype)

    def losses(outputs: Array, y: Array) -> Array:
        return jnp.mean(jnp.square(error(outputs, y)), axis=-1)

    def measures(outputs: Array, y: Array) -> dict[str, Array]:
        mse = losses(outputs, y)
        return {"loss": mse, "mse": mse, "mae": jnp.mean(jnp.abs(error(outputs, y)), axis=-1)}

    def fits(shape: tuple[int, ...]) -> str:
        right = len(shape) == 2 and shape[-1] == n
        return "" if right else f"gives outputs {list(shape)}, must give [B, {n}]"

    return Objective(losses, lambda y, mask: mask, measures, fits)


def _labels(y: Array, outputs: Array, pad: int | None) -> Array:
    if y.shape != outputs.shape[:-1] or not jnp.issubdtype(y.dtype, jnp.integer):
        wanted = f"targets must be integers of shape {outputs.shape[:-1]}"
        raise InputError("y", (y.shape, str(y.dtype)), wanted)
    y = y.astype(jnp.int32)
    return y if pad is None else jnp.where(y == pad, 0, y)
