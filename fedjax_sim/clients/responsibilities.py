"""How well models explain single examples, and which of several models explains which (E step)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Batch, Model, PyTree


def responsibilities(task: Task, key: Array, models: Model, pi: Array, batch: Batch) -> Array:
    """How much each component explains each example: q `[B, M]`, rows sum to 1.

    Args:
      task: gives the losses.
      key: of the losses, where the task's only are those of training.
      models: the components, leaves `[M, ...]`.
      pi: shares `[M]`.
      batch: examples `[B, ...]`.

    Cost: M forward passes, one after another.
    """
    found = jax.lax.map(lambda model: losses(task, key, model, batch), models)
    return jax.nn.softmax(jnp.log(pi)[None] - found.T.astype(pi.dtype), axis=1)


def training_losses(task: Task, key: Array, model: Model, batch: Batch) -> Array:
    """The training loss of each example `[B]`, 0 with gradient 0 where the mask is False."""
    slots = jnp.arange(batch.mask.shape[0], dtype=jnp.int32)

    def one(slot: Array, alone: Batch) -> Array:
        return task.loss(jax.random.fold_in(key, slot), model, alone)[0]

    return jax.vmap(one)(slots, _singles(batch))


def losses(task: Task, key: Array, model: Model, batch: Batch) -> Array:
    """The loss of each example `[B]`: the task's metric `loss`, in evaluation mode.

    Where it has no such metric the training loss.
    """
    outputs = task.predict(model, batch.x)

    def one(output: PyTree, alone: Batch) -> dict[str, tuple[Array, Array]]:
        return task.metrics(jax.tree.map(lambda leaf: leaf[None], output), alone)

    found = jax.vmap(one)(outputs, _singles(batch))
    if "loss" not in found:
        return training_losses(task, key, model, batch)
    total, count = found["loss"]
    return total / jnp.maximum(count, 1)


def summed(q: Array, batch: Batch) -> tuple[Array, Array]:
    """Responsibilities `[M]` and examples, summed over the batch's mask."""
    total = jnp.sum(jnp.where(batch.mask[:, None], q, 0), axis=0)
    return total, jnp.sum(batch.mask).astype(q.dtype)


def _singles(batch: Batch) -> Batch:
    """Each example as a batch of one, `[B, 1, ...]`."""
    return Batch(batch.x[:, None], batch.y[:, None], batch.mask[:, None])
