"""Local training on another loss than the task's, made of its outputs and representations.

A loss that looks at more than a batch (what was received, what the client holds) is a `Task`
whose `loss` is replaced; any client update then trains on it, with the one local loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from fedjax_sim.clients.sgd import LocalWork
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Forward, Model, PyTree, Report
from fedjax_sim.data.batching import ClientData

Client = Callable[[Task], ClientUpdate]
Change: TypeAlias = Callable[[Task, Model, PyTree], Task]
"""`(task, received, own) -> task` whose loss is the one to train on."""


def on_loss(
    client: Client,
    change: Change,
    own: Callable[[Task, Model, PyTree, ClientData], PyTree] | None = None,
) -> Client:
    """Train `client` on the loss of `change(task, received, own)`.

    Args:
      client: local training whose work is a `LocalWork`, from a received `Model`.
      change: called in every step.
      own: `(task, received, row, data) -> own`, what a lane carries for the loss from the start
        of the client on; `()` by default.

    Returns:
      `Task -> ClientUpdate` with the rows of `client`.
    """

    def build(task: Task) -> ClientUpdate:
        base = client(task)

        def start(ctx: Context, received: Model, row: PyTree, data: ClientData) -> LocalWork:
            held = () if own is None else own(task, received, row, data)
            return base.start(ctx, received, row, data)._replace(extra={"own": held})

        def step(
            ctx: Context, t: Array, work: LocalWork, received: Model, data: ClientData
        ) -> LocalWork:
            held = work.extra["own"]
            changed = client(change(task, received, held))
            done = changed.step(ctx, t, work._replace(extra={}), received, data)
            return done._replace(extra={"own": held})

        def finish(
            ctx: Context, work: LocalWork, received: Model, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            return base.finish(ctx, work._replace(extra={}), received, row, data)

        return ClientUpdate(base.init, base.steps, start, step, finish)

    return build


def with_term(task: Task, term: Callable[[Forward, Model, Batch], Array]) -> Task:
    """The task whose loss is its own and the mean of a term over the batch's mask.

    Args:
      task: any.
      term: `(pass, model, batch) -> [B]`; the pass is the one whose outputs are scored.
    """

    def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        found = forward(task, key, model, batch)
        if task.score is None:
            value, _ = task.loss(key, model, batch)
        else:
            value = task.score(found.outputs, batch)
        return value + _mean(term(found, model, batch), batch.mask).astype(value.dtype), found.state

    return task._replace(loss=loss)


def with_outputs(task: Task, change: Callable[[Array], Array]) -> Task:
    """The task whose loss scores changed outputs `[B, C]`."""

    def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        found = forward(task, key, model, batch)
        return score(task, change(found.outputs), batch), found.state

    return task._replace(loss=loss)


def forward(task: Task, key: Array, model: Model, batch: Batch) -> Forward:
    """One pass in training mode; padding rows of what it gives are 0.

    A task that has no `forward` is asked in evaluation mode, which is the same for a model
    without state.

    Raises:
      InputError: for such a task whose model has a state.
    """
    if task.forward is not None:
        found = task.forward(key, model, batch)
        features = None if found.features is None else _only(batch.mask, found.features)
        return Forward(_only(batch.mask, found.outputs), features, found.state)
    if jax.tree.leaves(model.state):
        remedy = "has a state and no Task.forward to train it by; tasks.classifier makes one"
        raise InputError("task", "its model", remedy)
    features = None if task.features is None else _only(batch.mask, task.features(model, batch.x))
    return Forward(_only(batch.mask, task.predict(model, batch.x)), features, model.state)


def score(task: Task, outputs: Array, batch: Batch) -> Array:
    """The mean loss of outputs over the batch's mask: `Task.score`, or the metric `loss`.

    Raises:
      InputError: for a task that has neither.
    """
    if task.score is not None:
        return task.score(outputs, batch)
    measured: dict[str, Any] = task.metrics(outputs, batch)
    if "loss" not in measured:
        raise InputError("task", "its metrics", "needs Task.score or a metric named loss")
    total, count = measured["loss"]
    return total / jnp.maximum(count, 1)


def _only(mask: Array, values: Array) -> Array:
    return jnp.where(mask.reshape(mask.shape + (1,) * (values.ndim - 1)), values, 0)


def _mean(values: Array, mask: Array) -> Array:
    count = jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)
    return jnp.sum(jnp.where(mask, values, 0)) / count
