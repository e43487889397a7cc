"""Ordered dropout: every local step trains the first units of a width drawn for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.aggregation.coverage import Covered
from fedjax_sim.clients import parts
from fedjax_sim.clients.tiers import tiers_of
from fedjax_sim.clients.width import FORMS, Client, Widths
from fedjax_sim.core.checks import InputError, choice
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Model, PyTree, Report
from fedjax_sim.data.batching import ClientData
from fedjax_sim.tasks.axes import layout
from fedjax_sim.tasks.objectives import mean_where

On = Callable[[Array, Model, Callable[[Model], tuple[Any, PyTree]]], tuple[Any, PyTree]]
"""`(level, model, f) -> f(part)`; the state that f gives back is put in the whole one's place."""


def ordered(client: Client, which: Widths, *, form: str = "sliced", distill: str = "off") -> Client:
    """Train at a width drawn for every step, up to the client's own; report as `Covered`.

    Args:
      client: local training that receives a `Model`, such as `local`.
      which: ratios, and the client's own level, its widest.
      form: `masked` or `sliced`, see `clients.width.in_part`.
      distill: `on`: the loss is that of the client's widest part, and the cross-entropy of the
        drawn part against the widest one's probabilities, which pass no gradient back.

    Returns:
      `Task -> ClientUpdate`; `aux["held"]` is the share of parameters that a client holds.
    """
    choice("algorithm.form", form, FORMS)
    choice("algorithm.distill", distill, ("on", "off"))

    def build(task: Task) -> ClientUpdate:
        base = client(task)
        if distill == "on" and task.forward is None:
            remedy = "needs a task that shows the outputs of its loss (Task.forward)"
            raise InputError("algorithm.distill", distill, remedy)

        def step(ctx: Context, t: Array, work: PyTree, received: Model, data: ClientData) -> Any:
            on = _on(task, which, form, received, data)
            own = client(_drawn(task, which, which.level(ctx), on, distill == "on"))
            return own.step(ctx, t, work, received, data)

        def finish(
            ctx: Context, work: PyTree, received: Model, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            said, row = base.finish(ctx, work, received, row, data)
            lay = layout(task.predict, received, data.x.shape[1:], data.x.dtype)
            counts = jnp.asarray([parts.kept(lay, r) for r in which.ratios], jnp.int32)
            holds = parts.held(lay, counts[which.level(ctx)])
            aux = said.aux | {"held": parts.share(holds, said.update)}
            covered = Covered(said.update, holds)
            return said._replace(update=covered, group=which.level(ctx), aux=aux), row

        return base._replace(step=step, finish=finish)

    return build


def _on(task: Task, which: Widths, form: str, received: Model, data: ClientData) -> On:
    """How a function of a part is computed, by masks or on small arrays."""
    lay = layout(task.predict, received, data.x.shape[1:], data.x.dtype)
    counts = jnp.asarray([parts.kept(lay, r) for r in which.ratios], jnp.int32)

    def put(model: Model, holds: parts.Held, state: PyTree) -> PyTree:
        whole = Model(model.params, state)
        leaves, old = jax.tree.leaves(whole), jax.tree.leaves(model)
        each = zip(leaves, old, holds, strict=True)
        merged = [jnp.where(parts.mask_of(h, o.ndim), n, o) for n, o, h in each]
        return jax.tree.unflatten(jax.tree.structure(whole), merged).state

    def by_mask(level: Array, model: Model, f: Any) -> tuple[Any, PyTree]:
        holds = parts.held(lay, counts[level])
        value, state = f(parts.masked(model, holds))
        return value, put(model, holds, state)

    if form == "masked":
        return by_mask
    tiers = tiers_of(task, lay, which.ratios, received, data)

    def by_slice(level: Array, model: Model, f: Any) -> tuple[Any, PyTree]:
        def branch(k: int, model: Model) -> tuple[Any, PyTree]:
            part = tiers.cut(model, k)
            value, state = f(part)
            back = parts.put_back(lay, Model(part.params, state), tiers.counts[k])
            holds = parts.held(lay, jnp.asarray(tiers.counts[k], jnp.int32))
            return value, put(model, holds, back.state)

        return tiers.switch(level, branch, model)

    return by_slice


def _drawn(task: Task, which: Widths, widest: Array, on: On, distill: bool) -> Task:
    """The task whose loss is that of a part, drawn by the step's key."""

    def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        levels = len(which.ratios)
        draw = jax.random.fold_in(key, levels)
        level = jax.random.randint(draw, (), widest, levels, jnp.int32)
        if not distill:
            return on(level, model, lambda part: task.loss(key, part, batch))
        (value, taught), state = on(widest, model, lambda part: _shown(task, key, part, batch))
        model = model._replace(state=state)
        (_, outputs), state = on(level, model, lambda part: _shown(task, key, part, batch))
        return value + _soft(outputs, jax.lax.stop_gradient(taught), batch), state

    return task._replace(loss=loss)


def _shown(task: Task, key: Array, part: Model, batch: Batch) -> tuple[Any, PyTree]:
    assert task.forward is not None and task.score is not None
    seen = task.forward(key, part, batch)
    return (task.score(seen.outputs, batch), seen.outputs), seen.state


def _soft(outputs: Array, taught: Array, batch: Batch) -> Array:
    """Mean over the mask of the cross-entropy of two sets of logits `[B, ..., C]`."""
    each = -jnp.sum(jax.nn.softmax(taught) * jax.nn.log_softmax(outputs), axis=-1)
    return mean_where(each, batch.mask)
