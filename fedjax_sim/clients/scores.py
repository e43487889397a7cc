"""Clients that speak by their outputs on a public set of inputs (FedMD, FedDF)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.clients.architectures import OwnModel, next_row, own_model, own_row
from fedjax_sim.clients.sgd import LocalWork, Weighting, local, weigh
from fedjax_sim.core import keys, tree
from fedjax_sim.core.checks import InputError, choice, integer
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData
from fedjax_sim.data.public import public_set, public_steps, public_window
from fedjax_sim.tasks import mixed
from fedjax_sim.tasks.teaching import MATCHES, Speaker, Taught, towards


def digesting(
    optimizer: Any,
    public: Any,
    batches: Batches | None = None,
    *,
    steps: int = 20,
    batch: int = 32,
    match: str = "absolute",
    weighting: Weighting = "uniform",
) -> Callable[[Task], ClientUpdate]:
    """Learn the consensus on the public set, then the own examples; report the own scores.

    Args:
      optimizer: any optax transformation; one state for both, which starts anew each round.
      public: inputs `[Q, ...]`.
      batches: how own examples become local steps.
      steps: on the public set; none of them moves a client before there is a consensus.
      batch: public examples a step.
      match: see `tasks.teaching.divergence`.
      weighting: see `clients.sgd.weigh`.

    Returns:
      `Task -> ClientUpdate` with `received` having `model`, `value` (at least `[Q, C]`) and
      `known` `[Q]`; the row is an `OwnModel`; the report's update is `[Q, C]`, its weight `[Q]`.
      Public batches are shuffled where the own ones are.

    Raises:
      InputError: naming the field.

    Cost: `steps` beside the local ones; one pass over the public set; a row is a model.
    """
    choice("algorithm.match", match, MATCHES)
    first, own = integer("algorithm.digest_steps", steps, least=0), batches or Batches()
    train, opt = local(optimizer, own), optax.with_extra_args_support(optimizer)

    def build(task: Task) -> ClientUpdate:
        plain, off, given = train(task), towards(task, match), public_set(public)
        many = given.shape[0]
        rule = public_steps("algorithm.digest", max(first, 1), batch, many, shuffle=own.shuffle)

        def count(ctx: Context, data: ClientData) -> Array:
            return first + plain.steps(ctx, data)

        def start(ctx: Context, received: Any, row: OwnModel, data: ClientData) -> LocalWork:
            return plain.start(ctx, own_model(row, received.model), (), data)

        def learn(ctx: Context, t: Array, work: LocalWork, received: Any) -> LocalWork:
            window = public_window(given, received.value)
            words = keys.words(keys.for_purpose(ctx.key, keys.Purpose.AGGREGATE))
            asked, model = window.batch(rule, words, t), work.model
            scores = jax.eval_shape(task.predict, model, asked.x)
            value, grads = off(model, asked.x, _columns(asked.y, scores.shape[-1]))
            extra = {"anchor": model.params, "round": ctx.round, "step": t, "value": value}
            return tree.where(jnp.all(received.known), _moved(opt, work, grads, extra), work)

        def step(
            ctx: Context, t: Array, work: LocalWork, received: Any, data: ClientData
        ) -> LocalWork:
            if not first:
                return plain.step(ctx, t, work, work.model, data)
            return jax.lax.cond(
                t < first,
                lambda w: learn(ctx, t, w, received),
                lambda w: plain.step(ctx, t - first, w, w.model, data),
                work,
            )

        def finish(
            ctx: Context, work: LocalWork, received: Any, row: OwnModel, data: ClientData
        ) -> tuple[Report, OwnModel]:
            report, _ = plain.finish(ctx, work, work.model, (), data)
            scores = task.predict(work.model, jnp.asarray(given)).astype(received.value.dtype)
            did = plain.steps(ctx, data)
            weight = jnp.where(did > 0, weigh(weighting, data.size, did, ctx), 0)
            said = report._replace(update=scores, weight=jnp.broadcast_to(weight, (many,)))
            return said, next_row(row, work.model)

        return ClientUpdate(own_row, count, start, step, finish)

    return build


def speaking(client: Callable[[Task], ClientUpdate], public: Any) -> Callable[[Task], ClientUpdate]:
    """Local training whose report says, too, what the trained model thinks of the public set.

    Args:
      client: local training that receives a `Model` and reports its decrease.
      public: inputs `[Q, ...]`.

    Returns:
      `Task -> ClientUpdate` whose reports are `Taught`, of the group of the client's architecture.

    Cost: one pass over the public set more.
    """

    def build(task: Task) -> ClientUpdate:
        base, given = client(task), public_set(public)

        def finish(
            ctx: Context, work: LocalWork, received: Model, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            report, row = base.finish(ctx, work, received, row, data)
            heard = report.weight > 0
            scores = task.predict(work.model, jnp.asarray(given)).astype(report.weight.dtype)
            scores = jnp.where(heard, scores / jnp.where(heard, report.weight, 1), 0)
            update = Taught(report.update, scores, Speaker(task))
            group = mixed.architecture_of(received)
            return report._replace(update=update, group=group), row

        return base._replace(finish=finish)

    return build


def _moved(opt: Any, work: LocalWork, grads: PyTree, extra: dict[str, Any]) -> LocalWork:
    """One step of the optimizer."""
    updates, state = opt.update(grads, work.opt, work.model.params, **extra)
    model = work.model._replace(params=optax.apply_updates(work.model.params, updates))
    return work._replace(model=model, opt=tree.as_before(state, work.opt))


def _columns(table: Array, columns: int) -> Array:
    if table.shape[1] < columns:
        remedy = f"must be at least {columns}, of this task"
        raise InputError("algorithm.most_classes", table.shape[1], remedy)
    return table[:, :columns]
