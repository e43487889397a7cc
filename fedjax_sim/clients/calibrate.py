"""Clients that measure what the batch norms of the shared weights meet in their examples."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.clients.norms import FIELD, Client, norm_leaves, refuse_unless
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData
from fedjax_sim.tasks import norms
from fedjax_sim.tasks.norms import Calibration, Measured, NormLeaves

_BATCH = 256  # examples a calibration step


class Sums(NamedTuple):
    """Sums over a client's examples.

    Attributes:
      first: by layer, of the mean about the running mean.
      second: by layer, of the mean square about the running mean.
      loss: of the loss in evaluation mode.
      examples: how many.
    """

    first: tuple[Array, ...]
    second: tuple[Array, ...]
    loss: Array
    examples: Array


class Calibrating(NamedTuple):
    """The wrapped client's work, and what a calibration sums."""

    base: PyTree
    sums: Sums


def calibrating_norms(client: Client, calibration: Calibration) -> Client:
    """In the rounds of `calibration` train nothing: measure what the batch norms meet.

    The report has no update of params; its decreases of the statistics are those that
    `norms.settled` takes, weighted by examples whatever the client's own weighting, and its
    loss is that of evaluation mode. Every example counts once.

    Args:
      client: receives a `Model`, or a tuple with a field `model`.
      calibration: which rounds; the server needs the same (`server.norms.calibrates`).

    Returns:
      `Task -> ClientUpdate`.
    """

    def build(task: Task) -> ClientUpdate:
        base, at = client(task), norm_leaves(task, "recalibrated")
        passes = len(at.means)
        calibration.check(passes)

        def due(ctx: Context) -> Array:
            return calibration.due(ctx.round, passes)

        def steps(ctx: Context, data: ClientData) -> Array:
            once = _pass(data).count(data.size, data.longest)
            return jnp.where(due(ctx), once, base.steps(ctx, data))

        def start(ctx: Context, received: Any, row: PyTree, data: ClientData) -> Calibrating:
            sums = no_sums(norms.model_in(received, FIELD), at)
            return Calibrating(base.start(ctx, received, row, data), sums)

        def step(
            ctx: Context, t: Array, work: Calibrating, received: Any, data: ClientData
        ) -> Calibrating:
            def measure(work: Calibrating) -> Calibrating:
                model = norms.model_in(received, FIELD)
                sums = add_batch(task, at, ctx, t, work.sums, model, data)
                return work._replace(sums=tree.as_before(sums, work.sums))

            def train(work: Calibrating) -> Calibrating:
                after = base.step(ctx, t, work.base, received, data)
                return work._replace(base=tree.as_before(after, work.base))

            return jax.lax.cond(due(ctx), measure, train, work)

        def finish(
            ctx: Context, work: Calibrating, received: Any, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            usual, after = base.finish(ctx, work.base, received, row, data)
            measured = _measured_report(usual, work.sums, norms.model_in(received, FIELD), at)
            return tree.where(due(ctx), (measured, row), (usual, after))

        return ClientUpdate(base.init, steps, start, step, finish)

    return build


def _pass(data: ClientData) -> Batches:
    return Batches(size=min(_BATCH, data.longest), shuffle=False)


def no_sums(model: Model, at: NormLeaves) -> Sums:
    """Nothing measured yet."""
    zeros = tree.zeros(norms.pick(model, at.means))
    return Sums(zeros, zeros, jnp.zeros(()), jnp.zeros(()))


def add_batch(
    task: Task,
    at: NormLeaves,
    ctx: Context,
    t: Array,
    sums: Sums,
    model: Model,
    data: ClientData,
) -> Sums:
    """The sums with batch `t` of the client's examples, in stored order, put in."""
    batch = data.batch(_pass(data), jnp.zeros(2, jnp.uint32), t)
    value, state = task.loss(ctx.key, Model(model.params, Measured(model.state)), batch)
    refuse_unless(isinstance(state, Measured), "recalibrated")
    met = Model(model.params, state.state)
    n = jnp.sum(batch.mask).astype(sums.examples.dtype)
    off = tree.sub(norms.pick(met, at.means), norms.pick(model, at.means))
    spread = norms.pick(met, at.variances)
    square = tuple(v + d * d for v, d in zip(spread, off, strict=True))
    return Sums(
        tree.add(sums.first, tree.scale(off, n)),
        tree.add(sums.second, tree.scale(square, n)),
        sums.loss + (value * n).astype(sums.loss.dtype),
        sums.examples + n,
    )


def decreases(sums: Sums, model: Model, at: NormLeaves) -> Model:
    """The means of the sums as decreases of `model`, for `norms.settled`; params move by 0."""
    each = 1 / jnp.maximum(sums.examples, 1)
    shift = tree.scale(sums.first, -each)
    less = tree.sub(norms.pick(model, at.variances), tree.scale(sums.second, each))
    return norms.put(tree.zeros(model), at.means + at.variances, shift + less)


def measuring(task: Task) -> ClientUpdate:
    """A client update that measures the batch norms over its examples and trains nothing.

    Its update is the decreases that `norms.settled` takes, its weight the number of examples.
    """
    at = norm_leaves(task, "recalibrated")

    def finish(
        ctx: Context, sums: Sums, received: Model, row: PyTree, data: ClientData
    ) -> tuple[Report, PyTree]:
        del ctx, data
        decrease, group = decreases(sums, received, at), jnp.zeros((), jnp.int32)
        return Report(decrease, sums.examples, group, {}), row

    return ClientUpdate(
        init=lambda key, model: (),
        steps=lambda ctx, data: _pass(data).count(data.size, data.longest),
        start=lambda ctx, received, row, data: no_sums(received, at),
        step=lambda ctx, t, sums, received, data: add_batch(task, at, ctx, t, sums, received, data),
        finish=finish,
    )


def _measured_report(usual: Report, sums: Sums, model: Model, at: NormLeaves) -> Report:
    nothing = tree.zeros(usual.update)
    decrease = decreases(sums, model, at)
    update = decrease if isinstance(nothing, Model) else nothing._replace(model=decrease)
    told = {"loss_sum": sums.loss, "loss_count": sums.examples}
    aux = {n: told[n].astype(v.dtype) if n in told else v for n, v in usual.aux.items()}
    weight = sums.examples.astype(usual.weight.dtype)
    return Report(tree.as_before(update, usual.update), weight, usual.group, aux)
