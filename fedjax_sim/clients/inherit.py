"""Clients that keep a running mean of their local models, which teaches the next one (FedPHP)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.clients.kept import Kept, keep, unbegun
from fedjax_sim.clients.losses import forward, on_loss, score
from fedjax_sim.clients.sgd import LocalWork, Weighting, local
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData


def inheriting(
    optimizer: Any,
    strength: Array | float,
    temperature: Array | float,
    momentum: Array | float,
    visits: Array | float,
    batches: Batches | None = None,
    *,
    weighting: Weighting = "examples",
) -> Callable[[Task], ClientUpdate]:
    """Train the received model on labels and on the inherited model's outputs, then pass it on.

    `(1 - strength) loss + strength T^2 KL(softmax(p(x) / T), softmax(f(x) / T))`, p being the
    inherited model; afterwards `p <- mu p + (1 - mu) y`, y the trained model and
    `mu = momentum min(1, z / visits)`, z the rounds in which the client has trained before. In the
    first there is no p, and p becomes y.

    Args:
      optimizer: any optax transformation.
      strength: in [0, 1].
      temperature: T.
      momentum: in [0, 1], what mu grows to.
      visits: in how many rounds.
      batches: how examples become local steps.
      weighting: see `clients.sgd.weigh`.

    Returns:
      `Task -> ClientUpdate` with a `Kept` row, p; it reports the decrease of the received model.

    Cost: a forward pass of p in each step; a row and, besides, a lane hold one model.
    """

    def teacher(task: Task, received: Model, row: Kept, data: ClientData) -> tuple[Model, Array]:
        del task, received, data
        return row.model, jnp.where(row.rounds > 0, jnp.asarray(strength, float), 0)

    def change(task: Task, received: Model, own: tuple[Model, Array]) -> Task:
        del received
        return taught(task, *own, temperature)

    train = on_loss(local(optimizer, batches, weighting=weighting), change, teacher)

    def build(task: Task) -> ClientUpdate:
        base = train(task)

        def finish(
            ctx: Context, work: LocalWork, received: Model, row: Kept, data: ClientData
        ) -> tuple[Report, Kept]:
            report, _ = base.finish(ctx, work, received, (), data)
            mu = momentum * jnp.minimum(row.rounds / visits, 1)
            passed = running(row.model, work.model, mu)
            return report, keep(row, passed, base.steps(ctx, data))

        return base._replace(init=lambda key, model: unbegun(model), finish=finish)

    return build


def running(old: Model, new: Model, mu: Array) -> Model:
    """`mu old + (1 - mu) new` of params; exactly `new` at mu = 0. The state is the new one's."""

    def one(o: Array, n: Array) -> Array:
        m = mu.astype(n.dtype)
        return jnp.where(m > 0, m * o + (1 - m) * n, n)

    return Model(jax.tree.map(one, old.params, new.params), new.state)


def taught(task: Task, teacher: Model, strength: Array, temperature: Array | float) -> Task:
    """The task whose loss is in part the divergence from a teacher's outputs.

    With strength 0 the teacher, whatever it is, counts for nothing.

    Args:
      task: classification, outputs `[B, ..., C]`.
      teacher: in evaluation mode.
      strength: float scalar in [0, 1].
      temperature: T.
    """

    def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        found = forward(task, key, model, batch)
        value = score(task, found.outputs, batch)
        wanted = jax.lax.stop_gradient(task.predict(teacher, batch.x))
        counts = batch.mask & (strength > 0)
        wanted = jnp.where(counts.reshape(-1, *[1] * (wanted.ndim - 1)), wanted, 0)
        log_p, log_q = (jax.nn.log_softmax(v / temperature) for v in (wanted, found.outputs))
        each = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1).reshape(len(counts), -1)
        far = jnp.sum(jnp.where(counts, jnp.mean(each, axis=1), 0))
        far = temperature**2 * far / jnp.maximum(jnp.sum(batch.mask), 1)
        return ((1 - strength) * value + strength * far).astype(value.dtype), found.state

    return task._replace(loss=loss)
