"""Clients that learn to represent classes alike (FedProto)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.clients.architectures import OwnModel, next_row, own_model, own_row
from fedjax_sim.clients.sgd import LocalWork, Weighting, local, weigh
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Model, PyTree, Report
from fedjax_sim.data.batching import WHOLE, Batches, ClientData


class Known(NamedTuple):
    """Prototypes `[C, F]`, and which of them are known, bool `[C]`."""

    value: Array
    known: Array


class PrototypeWork(NamedTuple):
    """Training, then sums of features by class `[C, F]` and the classes' counts `[C]`."""

    local: LocalWork
    total: Array
    seen: Array


class Anchored(NamedTuple):
    """Params of a model that predicts by the nearest prototype; unknown ones are infinite."""

    params: PyTree
    prototypes: Array


def pulled(task: Task, strength: Array | float, prototypes: Known) -> Task:
    """The task whose loss draws representations to the prototypes of their classes.

    `loss + strength * mean over the batch of mean_f (z_f - c_yf)^2`, examples of classes without
    a known prototype adding 0. Representations are those of evaluation mode, which is that of
    training for networks without batch norm and dropout.

    Args:
      task: with `features`.
      strength: lambda.
      prototypes: by class.
    """
    features = features_of(task)

    def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        value, state = task.loss(key, model, batch)
        z = features(model, batch.x)
        y = jnp.clip(batch.y, 0, prototypes.known.shape[0] - 1)
        counts = batch.mask & prototypes.known[y]
        away = jnp.where(counts[:, None], z - prototypes.value[y].astype(z.dtype), 0)
        shape = (jnp.maximum(jnp.sum(batch.mask), 1) * z.shape[1]).astype(z.dtype)
        penalty = jnp.sum(jnp.square(away)) / shape
        return value + (strength * penalty).astype(value.dtype), state

    return task._replace(loss=loss)


def prototypes(
    optimizer: Any,
    strength: Array | float,
    batches: Batches | None = None,
    *,
    weighting: Weighting = "examples",
) -> Callable[[Task], ClientUpdate]:
    """Train an own model towards the received prototypes, and report its own.

    After the local steps one pass in evaluation mode finds the mean representation of each class
    among all own examples; a class is weighed by how many of them the client has.

    Args:
      optimizer: any optax transformation; it starts anew each round.
      strength: see `pulled`.
      batches: how examples become local steps.
      weighting: see `clients.sgd.weigh`; the size is the class's count. `uniform`: every client
        that has the class counts the same.

    Returns:
      `Task -> ClientUpdate` with `received` having `model`, `value` (at least `[C, F]`) and
      `known`; the row is an `OwnModel`; the report's update is `[C, F]`, its weight `[C]`.

    Raises:
      InputError: for a task without features, or prototypes too narrow for it.

    Cost: one forward pass over the examples beside the local steps; a row is the model.
    """
    train = local(optimizer, batches)

    def build(task: Task) -> ClientUpdate:
        plain, features = train(task), features_of(task)

        def steps(ctx: Context, data: ClientData) -> Array:
            return plain.steps(ctx, data) + WHOLE.count(data.size, data.longest)

        def start(ctx: Context, received: Any, row: OwnModel, data: ClientData) -> PrototypeWork:
            known = _held(task, received, data)
            begun = plain.start(ctx, own_model(row, received.model), (), data)
            seen = jnp.zeros(known.known.shape)
            return PrototypeWork(begun, jnp.zeros(known.value.shape), seen)

        def step(
            ctx: Context, t: Array, work: PrototypeWork, received: Any, data: ClientData
        ) -> PrototypeWork:
            n = plain.steps(ctx, data)
            client = train(pulled(task, strength, _held(task, received, data)))

            def learn(work: PrototypeWork) -> PrototypeWork:
                begin = work.local.model
                return work._replace(local=client.step(ctx, t, work.local, begin, data))

            def measure(work: PrototypeWork) -> PrototypeWork:
                batch = data.batch(WHOLE, jnp.zeros(2, jnp.uint32), t - n)
                z = features(work.local.model, batch.x).astype(work.total.dtype)
                return _summed(work, z, batch)

            return jax.lax.cond(t < n, learn, measure, work)

        def finish(
            ctx: Context, work: PrototypeWork, received: Any, row: OwnModel, data: ClientData
        ) -> tuple[Report, OwnModel]:
            del received
            did = plain.steps(ctx, data)
            weight = weigh(weighting, work.seen, did, ctx)
            weight = jnp.where((work.seen > 0) & (did > 0), weight, 0)
            mean = work.total / jnp.maximum(work.seen, 1)[:, None]
            aux = {"loss_sum": work.local.loss_sum, "loss_count": work.local.loss_count}
            said = Report(mean, weight, jnp.zeros((), jnp.int32), aux)
            return said, next_row(row, work.local.model)

        return ClientUpdate(own_row, steps, start, step, finish)

    return build


def _held(task: Task, received: Any, data: ClientData) -> Known:
    """The received prototypes, cut to the task's classes and features.

    Raises:
      InputError: where there is no room for them.
    """
    x = jax.ShapeDtypeStruct((1, *data.x.shape[1:]), data.x.dtype)
    outputs = jax.eval_shape(task.predict, received.model, x)
    shown = jax.eval_shape(features_of(task), received.model, x)
    c, f = outputs.shape[-1], shown.shape[-1]
    names, room = ("most_classes", "most_features"), received.value.shape
    for field, wanted, given in zip(names, (c, f), room, strict=True):
        if given < wanted:
            remedy = f"must be at least {wanted}, of this task"
            raise InputError(f"algorithm.{field}", given, remedy)
    return Known(received.value[:c, :f], received.known[:c])


def nearest(task: Task) -> Callable[[Model, Array], Array]:
    """`(Model, x) -> outputs` of models whose params are `Anchored`: minus squared distances.

    A class without a known prototype is as far as 1e4 beyond the farthest.
    """
    features = features_of(task)

    def predict(model: Model, x: Array) -> Array:
        z = features(Model(model.params.params, model.state), x)
        c = model.params.prototypes[:, : z.shape[1]].astype(z.dtype)
        outputs = jax.eval_shape(task.predict, Model(model.params.params, model.state), x)
        c = c[: outputs.shape[-1]]
        known = jnp.all(jnp.isfinite(c), axis=1)
        away = z[:, None, :] - jnp.where(known[:, None], c, 0)[None]
        far = jnp.sum(jnp.square(away), axis=-1)
        return -jnp.where(known[None], far, jnp.max(far, axis=1, keepdims=True) + 1e4)

    return predict


def features_of(task: Task) -> Callable[[Model, Array], Array]:
    """The task's `features`.

    Raises:
      InputError: where it has none.
    """
    if task.features is None:
        remedy = "is needed: a model that shows its representation [B, F], such as models.mlp"
        raise InputError("task.features", None, remedy)
    return task.features


def _summed(work: PrototypeWork, z: Array, batch: Batch) -> PrototypeWork:
    """Features and examples added up by class."""
    classes = jnp.arange(work.seen.shape[0], dtype=jnp.int32)
    member = (batch.y[:, None] == classes[None]) & batch.mask[:, None]  # [B, C]
    clean = jnp.where(batch.mask[:, None], z, 0)
    total = work.total + member.astype(z.dtype).T @ clean
    return work._replace(total=total, seen=work.seen + jnp.sum(member, axis=0).astype(float))
