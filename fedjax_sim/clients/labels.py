"""The labels of a client's examples."""

from __future__ import annotations

import jax.numpy as jnp

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import ClientData


def label_counts(
    data: ClientData,
    classes: int,
    *,
    field: str = "task",
    remedy: str = "needs one label an example",
) -> Array:
    """How many of a client's examples have each label, float `[C]`.

    Args:
      data: the client's window; targets integers `[B]`.
      classes: C.
      field: for the message.
      remedy: for the message.

    Raises:
      InputError: for targets that are not one label an example.

    Cost: a gather of the largest client's number of labels, and C comparisons each.
    """
    if data.y.ndim != 1 or not jnp.issubdtype(data.y.dtype, jnp.integer):
        raise InputError(field, str(data.y.dtype), remedy)
    slot = jnp.arange(data.longest, dtype=jnp.int32)
    y = data.y.at[data.offset + slot].get(mode="clip").astype(jnp.int32)
    found = y[:, None] == jnp.arange(classes, dtype=jnp.int32)[None, :]
    mine = (slot < data.size)[:, None]
    return jnp.sum(found & mine, axis=0).astype(jnp.result_type(float))
