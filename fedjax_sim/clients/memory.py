"""A model beside a memory of the client's own examples: predict by the nearest (kNN-Per)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import keys
from fedjax_sim.core.checks import InputError, choice
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Context, Model
from fedjax_sim.data.batching import Batches, ClientData

REPRESENTATIONS = ("features", "outputs")


class Remembering(NamedTuple):
    """Params of a model that looks up examples.

    Attributes:
      params: the model's own.
      features: `[E, F]` of the remembered examples.
      labels: float `[E]`, the class, -1 where nothing is remembered.
      share: float scalar, how much the memory counts.
      width: float scalar, of the kernel.
    """

    params: Any
    features: Array
    labels: Array
    share: Array
    width: Array


def represented(task: Task, by: str) -> Callable[[Model, Array], Array]:
    """`(Model, x [B, ...]) -> [B, F]`, what examples are compared by.

    Args:
      task: classification.
      by: `features`, or `outputs` where the task's model shows no representation.

    Raises:
      InputError: for `features` of a task that has none.
    """
    choice("algorithm.features", by, REPRESENTATIONS)
    if by == "outputs":
        return task.predict
    if task.features is None:
        remedy = 'is not there: the model shows no representation [B, F]; "outputs" would do'
        raise InputError("algorithm.features", by, remedy)
    return task.features


def remember(
    task: Task, capacity: int, share: Array | float, width: Array | float, *, by: str
) -> Callable[[Context, Model, ClientData], Model]:
    """Read the client's own training examples into a memory.

    Of more examples than fit a random part is remembered.

    Args:
      task: classification, outputs `[B, C]`.
      capacity: examples at most.
      share: see `Remembering`.
      width: see `Remembering`.
      by: see `represented`.

    Returns:
      `(ctx, model, data) -> Model` with `Remembering` params.

    Cost: one forward pass over them at once; E x (F + 1) numbers a client that is evaluated.
    """
    show = represented(task, by)

    def build(ctx: Context, model: Model, data: ClientData) -> Model:
        size = min(capacity, max(data.longest, 1))
        rule = Batches(size=size, shuffle=data.longest > size)
        words = keys.words(keys.for_purpose(ctx.key, keys.Purpose.SAMPLE))
        batch = data.batch(rule, words, jnp.int32(0))
        features = show(model, batch.x)
        features = jnp.where(batch.mask[:, None], features, 0)
        labels = jnp.where(batch.mask, batch.y, -1).astype(float)
        numbers = [jnp.asarray(v, float) for v in (share, width)]
        return Model(Remembering(model.params, features, labels, *numbers), model.state)

    return build


def nearest_examples(
    neighbours: int, *, by: str
) -> Callable[[Task], Callable[[Model, Array], Array]]:
    """`Task -> predict` for models of `remember`: the log of a mixture of two distributions.

    `share q + (1 - share) softmax(f(x))`; q counts the classes of the k nearest remembered
    examples by `exp(-|phi(x) - phi(x_i)| / width)`. A client without examples uses the model alone.

    Args:
      neighbours: k.
      by: see `represented`.

    Cost: E x F multiply-adds and a partial sort of E an example.
    """

    def build(task: Task) -> Callable[[Model, Array], Array]:
        show = represented(task, by)

        def predict(model: Model, x: Array) -> Array:
            if not isinstance(model.params, Remembering):  # the shared model, without a memory
                return task.predict(model, x)
            held = model.params
            plain = Model(held.params, model.state)
            outputs = task.predict(plain, x)
            k = min(neighbours, held.labels.shape[0])
            far = _distances(show(plain, x), held.features)
            far = jnp.where(held.labels[None] >= 0, far, jnp.inf)
            minus, at = jax.lax.top_k(-far, k)
            votes = _votes(-minus, held.width.astype(far.dtype))
            classes = jnp.arange(outputs.shape[-1], dtype=held.labels.dtype)
            theirs = held.labels[at][..., None] == classes[None, None]
            q = jnp.sum(votes[..., None] * theirs, axis=1)
            share = jnp.where(jnp.any(held.labels >= 0), held.share, 0).astype(outputs.dtype)
            mixed = share * q.astype(outputs.dtype) + (1 - share) * jax.nn.softmax(outputs, axis=-1)
            return jnp.log(jnp.maximum(mixed, jnp.finfo(mixed.dtype).tiny))

        return predict

    return build


def _distances(a: Array, b: Array) -> Array:
    """`|a_i - b_j|` `[B, E]`, at least in float32."""
    a, b = (v.astype(jnp.promote_types(v.dtype, jnp.float32)) for v in (a, b))
    product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(a * a, axis=1)[:, None] + jnp.sum(b * b, axis=1)[None] - 2 * product
    return jnp.sqrt(jnp.maximum(squares, 0))


def _votes(far: Array, width: Array) -> Array:
    """Kernel weights `[B, k]` that sum to 1, or 0 where nothing is remembered."""
    here = jnp.isfinite(far)
    near = jnp.where(here[:, :1], far[:, :1], 0)
    weights = jnp.where(here, jnp.exp((near - far) / width), 0)
    return weights / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1)
