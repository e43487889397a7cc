"""A client that reports its gradient and how the gradient changes along a direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.clients.sgd import Weighting, partial_steps, weigh
from fedjax_sim.core import keys, tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Model, PyTree, Report
from fedjax_sim.data.batching import WHOLE, Batches, ClientData, Feed


class Probe(NamedTuple):
    """What the server sends: the model and a direction, shaped like its params."""

    model: Model
    direction: PyTree


class Curved(NamedTuple):
    """What the client reports.

    Attributes:
      model: gradient of params, decrease of the model's state.
      product: the Hessian times the direction.
    """

    model: Model
    product: PyTree


class CurvatureWork(NamedTuple):
    """What a client carries between batches.

    Attributes:
      gradient: sum of gradients over the examples seen.
      product: sum of Hessian-vector products.
      state: the model's state as the forward passes left it.
      feed: which examples come next.
      loss_sum: sum of the loss.
      loss_count: number of examples seen.
    """

    gradient: PyTree
    product: PyTree
    state: PyTree
    feed: Feed
    loss_sum: Array
    loss_count: Array


def loss_gradient_product(
    task: Task, ctx: Context, t: Array, model: Model, direction: PyTree, batch: Batch
) -> tuple[Array, PyTree, PyTree, PyTree]:
    """`(mean loss, new state, gradient, Hessian x direction)` of one batch.

    Forward over reverse: the gradient's derivative along `direction`, in one pass, with the
    random numbers (dropout) of `clients.sgd.gradient`.

    Cost: about two gradients; no P x P matrix.
    """
    key = jax.random.fold_in(keys.for_purpose(ctx.key, keys.Purpose.LOSS), t)

    def slope(params: PyTree) -> tuple[PyTree, tuple[Array, PyTree]]:
        def loss(params: PyTree) -> tuple[Array, PyTree]:
            return task.loss(key, Model(params, model.state), batch)

        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return grads, (value, state)

    grads, product, (value, state) = jax.jvp(slope, (model.params,), (direction,), has_aux=True)
    return value, state, grads, product


def gradient_and_product(
    batches: Batches | None = None, *, weighting: Weighting = "examples"
) -> Callable[[Task], ClientUpdate]:
    """Report the exact gradient over the client's examples, and H v for the direction v sent.

    Summed batch by batch at fixed params, as `clients.sgd.gradient` does, so memory does not
    grow with the client. Weighted by examples over all clients, the means are gradient and
    Hessian-vector product of the pooled loss.

    Args:
      batches: `epochs=1` sees every example once; the default takes at most 100 at a time.
      weighting: see `clients.sgd.weigh`.

    Returns:
      `Task -> ClientUpdate`, stateless, with `received` a `Probe` and `Curved` reports.

    Cost: about two of `clients.sgd.gradient`; 2 P travel each way; 3 P carried a lane.
    """
    batches = batches or WHOLE

    def build(task: Task) -> ClientUpdate:
        def steps(ctx: Context, data: ClientData) -> Array:
            return partial_steps(batches.count(data.size, data.longest), ctx)

        def start(ctx: Context, received: Probe, row: PyTree, data: ClientData) -> CurvatureWork:
            del row
            words = keys.words(keys.for_purpose(ctx.key, keys.Purpose.SHUFFLE))
            zeros, nothing = tree.zeros(received.model.params), jnp.zeros(())
            feed = data.feed(batches, words)
            return CurvatureWork(zeros, zeros, received.model.state, feed, nothing, nothing)

        def step(
            ctx: Context, t: Array, work: CurvatureWork, received: Probe, data: ClientData
        ) -> CurvatureWork:
            batch, feed = data.next(batches, work.feed, t)
            model = Model(received.model.params, work.state)
            value, state, grads, product = loss_gradient_product(
                task, ctx, t, model, received.direction, batch
            )
            seen = jnp.sum(batch.mask).astype(work.loss_count.dtype)
            return CurvatureWork(
                _add_sum(work.gradient, grads, seen),
                _add_sum(work.product, product, seen),
                state,
                feed,
                work.loss_sum + (value * seen).astype(work.loss_sum.dtype),
                work.loss_count + seen,
            )

        def finish(
            ctx: Context, work: CurvatureWork, received: Probe, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            share = 1 / jnp.maximum(work.loss_count, 1)
            moved = tree.sub(received.model.state, work.state)
            model = Model(tree.scale(work.gradient, share), moved)
            weight = weigh(weighting, data.size, steps(ctx, data), ctx)
            aux = {"loss_sum": work.loss_sum, "loss_count": work.loss_count}
            update = Curved(model, tree.scale(work.product, share))
            return Report(update, weight, jnp.zeros((), jnp.int32), aux), row

        return ClientUpdate(lambda key, model: (), steps, start, step, finish)

    return build


def _add_sum(total: PyTree, mean: PyTree, count: Array) -> PyTree:
    return jax.tree.map(lambda s, v: s + v * count.astype(v.dtype), total, mean)
