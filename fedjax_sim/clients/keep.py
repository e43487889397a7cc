"""Clients that keep a part of the model to themselves, or train a part of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.clients.phases import phases
from fedjax_sim.clients.sgd import LocalWork, Weighting, local
from fedjax_sim.core import parts, tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.parts import FIELD, Rule
from fedjax_sim.core.types import Array, Batch, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData
from fedjax_sim.transforms.parts import hold

Client = Callable[[Task], ClientUpdate]
Where = Callable[[Model], Model]
"""`Model -> Model` of static bools: which leaves are meant."""


class OwnPart(NamedTuple):
    """A client's row under `keep`.

    Attributes:
      base: the wrapped client's row.
      leaves: the part that it keeps.
      begun: whether it ever trained, where the server has a copy for those who did not; else ().
    """

    base: PyTree
    leaves: tuple[Array, ...]
    begun: Any = ()


class PartWork(NamedTuple):
    """The wrapped client's work, and the kept leaves that the round began with."""

    base: PyTree
    leaves: tuple[Array, ...]


def of_params(rule: Rule, *, field: str = FIELD) -> Where:
    """A function that masks the params of a model by `rule`, and nothing of its state."""
    of = parts.masked(rule, field=field)
    return lambda model: Model(of(model.params), jax.tree.map(lambda leaf: False, model.state))


def shape_of(task: Task) -> Model:
    """The shapes of the task's model."""
    return jax.eval_shape(task.init, jax.random.key(0))


def _trained(work: Any) -> Model:
    return work.model


def keep(
    client: Client,
    where: Where,
    *,
    tell: bool = False,
    trained: Callable[[Any], Model] = _trained,
) -> Client:
    """Keep a part of the model with the client, in its row; receive and report the rest.

    Args:
      client: receives and trains a whole `Model`.
      where: what is kept, such as `of_params(rule)`.
      tell: whole models go down, and reports say how the kept part moved away from the
        server's copy, with which clients begin until they have trained once.
      trained: the model in the client's work.

    Returns:
      `Task -> ClientUpdate`; without `tell`, what is received and reported has None where leaves
      are kept (`core.parts.without`). A row costs the kept leaves, and a lane carries them
      once more than the client does.
    """

    def build(task: Task) -> ClientUpdate:
        base, kept = client(task), where(shape_of(task))

        def whole(received: Model, leaves: tuple[Array, ...]) -> Model:
            return (parts.put if tell else parts.fill)(received, kept, leaves)

        def init(key: Array, model: Model) -> OwnPart:
            begun = jnp.zeros((), bool) if tell else ()
            return OwnPart(base.init(key, model), parts.pick(model, kept), begun)

        def start(ctx: Context, received: Model, row: OwnPart, data: ClientData) -> PartWork:
            leaves = begun_leaves(row, received, kept) if tell else row.leaves
            return PartWork(base.start(ctx, whole(received, leaves), row.base, data), leaves)

        def step(
            ctx: Context, t: Array, work: PartWork, received: Model, data: ClientData
        ) -> PartWork:
            mine = whole(received, work.leaves)
            return work._replace(base=base.step(ctx, t, work.base, mine, data))

        def finish(
            ctx: Context, work: PartWork, received: Model, row: OwnPart, data: ClientData
        ) -> tuple[Report, OwnPart]:
            before = received if tell else whole(received, work.leaves)
            report, rest = base.finish(ctx, work.base, before, row.base, data)
            leaves = parts.pick(trained(work.base), kept)
            if tell:
                return report, OwnPart(rest, leaves, row.begun | (base.steps(ctx, data) > 0))
            return report._replace(update=parts.without(report.update, kept)), OwnPart(rest, leaves)

        return ClientUpdate(init, base.steps, start, step, finish)

    return build


def begun_leaves(row: OwnPart, shared: Model, kept: Model) -> tuple[Array, ...]:
    """The client's leaves; those of `shared` as long as it never trained."""
    return tree.where(row.begun, row.leaves, parts.pick(shared, kept))


def kept_model(where: Where) -> Callable[[Task], Callable[..., Model]]:
    """For `OfTask`: the part that the server has as `state.model`, joined with the client's own."""

    def build(task: Task) -> Callable[..., Model]:
        kept = where(shape_of(task))
        return lambda ctx, state, row, data: parts.fill(state.model, kept, row.leaves)

    return build


def train(
    optimizer: Any,
    batches: Batches | None = None,
    *,
    held: Callable[[PyTree], PyTree],
    weighting: Weighting = "examples",
) -> Client:
    """Local training of all but a part of the model.

    No gradient is taken for the held part, and no update of the optimizer, weight decay
    included, reaches it.

    Args:
      optimizer: any optax transformation; its state covers the whole model.
      batches: how examples become steps.
      held: `params -> mask` of what stays (`core.parts.masked`).
      weighting: see `sgd.weigh`.
    """
    still = optax.chain(optax.with_extra_args_support(optimizer), hold(held))
    client = local(still, batches, weighting=weighting)
    return lambda task: client(_held(task, held))


def _held(task: Task, held: Callable[[PyTree], PyTree]) -> Task:
    """The task whose loss has no gradient for the masked leaves."""

    def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        here = held(model.params)
        leaves = [jax.lax.stop_gradient(leaf) for leaf in parts.pick(model.params, here)]
        return task.loss(key, model._replace(params=parts.put(model.params, here, leaves)), batch)

    return task._replace(loss=loss)


def in_turn(
    optimizer: Any,
    batches: Batches,
    first: int,
    *,
    personal: Rule,
    weighting: Weighting = "uniform",
) -> Client:
    """Train the personal part alone for some epochs, then the rest alone, as `batches` says.

    Args:
      optimizer: any optax transformation; it starts anew with each part.
      batches: of the second part; of the first but for the epochs.
      first: epochs of the first part.
      personal: which part is first.
      weighting: see `sgd.weigh`; steps are those of the second part.

    Returns:
      `Task -> ClientUpdate`, its work a `PhasedWork`.
    """
    rest = train(optimizer, batches, held=parts.masked(personal), weighting=weighting)
    of_first = dataclasses.replace(batches, epochs=first, steps=None)
    alone = train(optimizer, of_first, held=parts.masked(personal, others=True))

    def given(received: Model, work: LocalWork) -> Model:
        return received._replace(params=work.model.params)

    return phases(alone, rest, given=given)
