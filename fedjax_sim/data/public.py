"""Inputs that everybody may see, without labels: what distillation looks at."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches, ClientData
from fedjax_sim.data.federated import Federation

FIELD = "algorithm.public"


def public_set(public: Any) -> np.ndarray:
    """Public inputs as an array `[Q, ...]`, no wider than jax computes.

    Raises:
      InputError: where there are none, or nonsense.
    """
    remedy = "give public inputs [Q, ...], such as a share of the data that nobody holds"
    if public is None:
        raise InputError(FIELD, None, remedy)
    array = np.asarray(public)
    if array.ndim < 2 or not array.shape[0] or array.dtype.kind not in "fiub":
        raise InputError(FIELD, f"an array of shape {array.shape}", remedy)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(FIELD, "NaN or infinity", "must be finite")
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def public_window(x: np.ndarray, wanted: Array) -> ClientData:
    """The public set as if a client held it, targets `[Q, ...]` being what is wanted there."""
    many = len(x)
    whole = (jnp.zeros((), jnp.int32), jnp.full((), many, jnp.int32))
    return ClientData(jnp.asarray(x), wanted, *whole, many)


def public_steps(field: str, steps: int, size: int, many: int, *, shuffle: bool = True) -> Batches:
    """So many full batches, which run on through the set in a new order each time.

    Args:
      field: before `_steps` and `_batch` in messages.
      steps: at least 1.
      size: examples a batch, at most all.
      many: Q.
      shuffle: False keeps the stored order.

    Raises:
      InputError: naming the field.
    """
    integer(f"{field}_steps", steps, least=1)
    integer(f"{field}_batch", size, least=1)
    return Batches(epochs=None, steps=steps, size=min(size, many), last="topup", shuffle=shuffle)


def public_share(data: Federation, most: int = 512) -> np.ndarray:
    """Training inputs of the federation, evenly spaced over its clients, as if they were published.

    Args:
      data: the federation.
      most: examples at most.

    Returns:
      `[Q, ...]`, at most a third of the training examples; the clients keep them too.
    """
    x, _ = data.train.in_order()
    many = max(1, min(most, len(x) // 3))
    return x[np.arange(many) * len(x) // many]
