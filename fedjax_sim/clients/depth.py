"""Clients that train the first blocks of a model with exits, which teach one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.aggregation.coverage import Covered
from fedjax_sim.clients import parts
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Member, Model, PyTree, Report
from fedjax_sim.data.batching import ClientData
from fedjax_sim.tasks.exits import depths
from fedjax_sim.tasks.objectives import mean_where

Levels = Callable[[int], Callable[[Member], Array]]
Weight = Callable[[Context], Array]


def to_depth(client: Callable[[Task], ClientUpdate], levels: Levels, weight: Weight) -> Any:
    """Train and report, as `Covered`, the blocks up to a client's own exit.

    `sum_{i <= d} CE_i + weight / (d - 1) sum_i sum_{j != i} KL(p_j || p_i)`, where no gradient
    passes through the teacher `p_j`. What lies behind exit d is not computed.

    Args:
      client: local training that receives a `Model`, such as `local`.
      levels: `(D) -> ((Member) -> int32)`; level 0 has all D exits, level l has `D - l`.
      weight: `(Context) -> scalar`, of what exits learn from one another.

    Returns:
      `Task -> ClientUpdate`; `aux["held"]` is the share of parameters that a client holds.

    Cost: with one lane on a CPU only the client's depth is computed; with more lanes all are.
    """

    def build(task: Task) -> ClientUpdate:
        base = client(task)

        def step(ctx: Context, t: Array, work: PyTree, received: Model, data: ClientData) -> Any:
            of = _depths(task, received, data)
            level = levels(max(of))(ctx.member)
            own = client(task._replace(loss=_loss(task, of, level, weight(ctx))))
            return own.step(ctx, t, work, received, data)

        def finish(
            ctx: Context, work: PyTree, received: Model, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            said, row = base.finish(ctx, work, received, row, data)
            of = _depths(task, received, data)
            level = levels(max(of))(ctx.member)
            holds = _held(of, said.update, max(of) - level)
            aux = said.aux | {"held": parts.share(holds, said.update)}
            return said._replace(update=Covered(said.update, holds), group=level, aux=aux), row

        return base._replace(step=step, finish=finish)

    return build


def _depths(task: Task, received: Model, data: ClientData) -> tuple[int, ...]:
    return depths(task, received, data.x.shape[1:], data.x.dtype)


def _held(of: tuple[int, ...], update: PyTree, depth: Array) -> parts.Held:
    """All of a leaf whose depth is at most the client's, none of the others.

    A leaf without axes, which can have no mask, is everyone's.
    """

    def leaf(x: Array, needs: int) -> tuple[Any, ...]:
        if needs == 1 or not x.ndim:
            return ((),) * x.ndim
        return (jnp.broadcast_to(depth >= needs, x.shape[:1]), *((),) * (x.ndim - 1))

    return tuple(leaf(x, needs) for x, needs in zip(jax.tree.leaves(update), of, strict=True))


def _loss(task: Task, of: tuple[int, ...], level: Array, weight: Array) -> Callable[..., Any]:
    deepest = max(of)

    def at(depth: int, key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        assert task.exits is not None and task.score is not None
        outputs, state = task.exits(key, model, batch)
        seen = outputs[:depth]
        value = sum((task.score(o, batch) for o in seen), jnp.zeros(()))
        if depth > 1:
            value += weight / (depth - 1) * _apart(seen, batch)
        return value, _kept(of, depth, model, state)

    def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        if task.exits is None:
            return task.loss(key, model, batch)
        each = [lambda *given, d=deepest - n: at(d, *given) for n in range(deepest)]
        return jax.lax.switch(level, each, key, model, batch)

    return loss


def _kept(of: tuple[int, ...], depth: int, model: Model, state: PyTree) -> PyTree:
    """The new state as far as the client holds it."""
    new = jax.tree.leaves(Model(model.params, state))
    old, structure = jax.tree.flatten(model)
    mine = [n if needs <= depth else o for n, o, needs in zip(new, old, of, strict=True)]
    return jax.tree.unflatten(structure, mine).state


def _apart(outputs: tuple[Array, ...], batch: Batch) -> Array:
    """`sum_i sum_{j != i} KL(p_j || p_i)`, the mean over the batch's mask."""
    logs = [jax.nn.log_softmax(o) for o in outputs]
    pairs = [(p, q) for j, p in enumerate(logs) for i, q in enumerate(logs) if i != j]
    each = [_divergence(jax.lax.stop_gradient(teacher), student) for teacher, student in pairs]
    return mean_where(sum(each[1:], each[0]), batch.mask)


def _divergence(teacher: Array, student: Array) -> Array:
    """`KL(teacher || student)` of log probabilities `[B, ..., C]`."""
    return jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
