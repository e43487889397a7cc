"""Two heads on one body: a generic one for all labels alike, and the client's own on top of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.clients.keep import OwnPart, PartWork, keep
from fedjax_sim.clients.labels import label_counts
from fedjax_sim.clients.losses import forward, on_loss, score
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core import parts
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.parts import Rule
from fedjax_sim.core.types import Array, Batch, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData

_TINY = 1e-37  # of a count: a label that the client lacks is out of its softmax


class TwoHeads(NamedTuple):
    """Params of a model with two heads.

    Attributes:
      generic: of the whole model with the generic head.
      own: the leaves of the client's own head.
    """

    generic: PyTree
    own: tuple[Any, ...]


def two_heads(
    optimizer: Any, batches: Batches, *, personal: Rule, weighting: Weighting = "examples"
) -> Callable[[Task], ClientUpdate]:
    """Train body and generic head on the balanced loss, the own head on what that leaves.

    With logits g of the generic model, p of the own head on the same body and n_c examples of
    class c: body and generic head follow the gradient of `CE(g + log n_c, y)`, the own head that
    of `CE(stop(g) + p, y)`, in which the body stands still. The loss that is recorded is the
    second.

    Args:
      optimizer: any optax transformation; one for both.
      batches: how examples become steps.
      personal: which part is doubled.
      weighting: see `sgd.weigh`.

    Returns:
      `Task -> ClientUpdate` that receives and reports plain models; a row is the own head, 0 at
      first. It raises an `InputError` for a task without logits and labels.
    """
    trains = local(optimizer, batches, weighting=weighting)

    def build(task: Task) -> ClientUpdate:
        twofold = doubled(task, personal)

        def change(_: Task, received: Model, prior: Array) -> Task:
            del received
            return twofold._replace(loss=_losses(task, personal, prior))

        base = keep(on_loss(trains, change, _prior), _own)(twofold)

        def lifted(received: Model) -> Model:
            return parts.without(_lift(received, personal), _own(_lift(received, personal)))

        def init(key: Array, model: Model) -> OwnPart:
            return base.init(key, _lift(model, personal))

        def start(ctx: Context, received: Model, row: OwnPart, data: ClientData) -> PartWork:
            return base.start(ctx, lifted(received), row, data)

        def step(
            ctx: Context, t: Array, work: PartWork, received: Model, data: ClientData
        ) -> PartWork:
            return base.step(ctx, t, work, lifted(received), data)

        def finish(
            ctx: Context, work: PartWork, received: Model, row: OwnPart, data: ClientData
        ) -> tuple[Report, OwnPart]:
            report, row = base.finish(ctx, work, lifted(received), row, data)
            update = report.update._replace(params=report.update.params.generic)
            return report._replace(update=update), row

        return ClientUpdate(init, base.steps, start, step, finish)

    return build


def doubled(task: Task, personal: Rule) -> Task:
    """The task of models with two heads, whose outputs are the sum of both; loss unchanged.

    It predicts with plain models as `task` does.
    """

    def predict(model: Model, x: Array) -> Array:
        if not isinstance(model.params, TwoHeads):
            return task.predict(model, x)
        generic, own = _apart(model, personal)
        return task.predict(generic, x) + task.predict(own, x)

    return task._replace(init=lambda key: _lift(task.init(key), personal), predict=predict)


def _lift(model: Model, personal: Rule) -> Model:
    """A plain model with an own head of zeros."""
    head = parts.pick(model.params, parts.mask(model.params, personal))
    own = tuple(jnp.zeros(jnp.shape(leaf), leaf.dtype) for leaf in head)
    return model._replace(params=TwoHeads(model.params, own))


def _own(model: Model) -> Model:
    """Masks the own head."""
    nothing = jax.tree.map(lambda leaf: False, model)
    own = tuple(True for _ in model.params.own)
    return nothing._replace(params=nothing.params._replace(own=own))


def _apart(model: Model, personal: Rule) -> tuple[Model, Model]:
    """The generic model, and that of the own head on the same body."""
    generic, own = model.params
    mine = parts.put(generic, parts.mask(generic, personal), own)
    return model._replace(params=generic), model._replace(params=mine)


def _losses(task: Task, personal: Rule, prior: Array) -> Callable[..., Any]:
    def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        still = jax.lax.stop_gradient(model.params.generic)
        generic, _ = _apart(model, personal)
        _, own = _apart(model._replace(params=model.params._replace(generic=still)), personal)
        found = forward(task, key, generic, batch)
        logits = found.outputs
        balanced = score(task, logits + prior.astype(logits.dtype)[None, :], batch)
        mine = forward(task, key, own, batch).outputs
        value = score(task, jax.lax.stop_gradient(logits) + mine, batch)
        return value + (balanced - jax.lax.stop_gradient(balanced)), found.state

    return loss


def _prior(task: Task, received: Model, row: PyTree, data: ClientData) -> Array:
    """`log n_c`, float `[C]`."""
    del row
    x = jax.ShapeDtypeStruct((1, *data.x.shape[1:]), data.x.dtype)
    shape = jax.eval_shape(task.predict, received, x).shape
    if len(shape) != 2:
        remedy = "needs outputs [B, C], logits, and one label an example"
        raise InputError("task", list(shape), remedy)
    return jnp.log(jnp.maximum(label_counts(data, shape[1]), _TINY))
