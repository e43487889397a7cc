"""Clients that belong to a group: given, chosen by their losses, or found by their updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.clients.phases import lowest
from fedjax_sim.core import keys, tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData
from fedjax_sim.grouping.sketch import sketch_tree

Client = Callable[[Task], ClientUpdate]
Place = Callable[[Report, Any, Context], tuple[Array, dict[str, Array]]]

UNSEEN = -1
"""The group of a client that has none yet."""
_LOOK = 256  # examples on which a client that never took part compares the models


def in_group(client: Client, place: Place | None = None) -> Client:
    """Train the model of a group that is known before the start.

    Args:
      client: receives and trains a `Model`.
      place: `(report, received, ctx) -> (group, {name: value})`: where the report goes, and what
        is told besides; by default to the group received.

    Returns:
      `Task -> ClientUpdate` that receives `.model` and `.group` (int32), and tells the group
      also as `aux["group"]`.
    """

    def build(task: Task) -> ClientUpdate:
        base = client(task)

        def start(ctx: Context, received: Any, row: PyTree, data: ClientData) -> PyTree:
            return base.start(ctx, received.model, row, data)

        def step(ctx: Context, t: Array, work: PyTree, received: Any, data: ClientData) -> PyTree:
            return base.step(ctx, t, work, received.model, data)

        def finish(
            ctx: Context, work: PyTree, received: Any, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            said, row = base.finish(ctx, work, received.model, row, data)
            group, more = (received.group, {}) if place is None else place(said, received, ctx)
            return said._replace(group=group, aux=said.aux | {"group": group} | more), row

        return base._replace(start=start, step=step, finish=finish)

    return build


def by_sketch(dim: int) -> Place:
    """Sketch the update, and join the nearest group where there are groups and the client has none.

    What is received has `.words` (uint32 `[2]`, the projection's key, the same for all),
    `.centers` `[M, dim]`, and three bools: `.formed`, whether there are groups yet; `.joins`,
    whether this client has none of them; `.heeded`, whether the server looks at its sketch.

    Args:
      dim: length of a sketch.

    Returns:
      A `place` for `in_group` that tells `sketch` `[dim]` of norm 1 (0 where nobody looks at it),
      `client` and `group`, -1 as long as there are no groups; its report then goes to group 0.

    Cost: O(P) a report that is looked at, and any where several lanes end at once.
    """

    def place(said: Report, received: Any, ctx: Context) -> tuple[Array, dict[str, Array]]:
        key = jax.random.wrap_key_data(received.words, impl="threefry2x32")

        def sketched() -> Array:
            sketch = sketch_tree(key, said.update.params, dim, normalize=True)
            return sketch.astype(received.centers.dtype)

        nothing = jnp.zeros_like(received.centers[0])
        sketch = jax.lax.cond(received.heeded, sketched, lambda: nothing)
        alike = jnp.sum(received.centers * sketch[None], axis=1)
        empty = jnp.all(received.centers == 0, axis=1)
        nearest = jnp.argmax(jnp.where(empty, -jnp.inf, alike)).astype(jnp.int32)
        group = jnp.where(received.joins, nearest, received.group)
        told = jnp.where(received.formed, group, UNSEEN)
        return group, {"sketch": sketch, "client": ctx.member.id, "group": told}

    return place


def remembers_group(client: Client) -> Client:
    """Keep the group of the last report in the client's row, int32; -1 before the first.

    Args:
      client: without a row of its own.

    Cost: 4 bytes a client.
    """

    def build(task: Task) -> ClientUpdate:
        base = client(task)

        def init(key: Array, model: Model) -> Array:
            del key, model
            return jnp.full((), UNSEEN, jnp.int32)

        def start(ctx: Context, received: PyTree, row: Array, data: ClientData) -> PyTree:
            del row
            return base.start(ctx, received, (), data)

        def finish(
            ctx: Context, work: PyTree, received: PyTree, row: Array, data: ClientData
        ) -> tuple[Report, Array]:
            del row
            said, _ = base.finish(ctx, work, received, (), data)
            return said, said.group

        return base._replace(init=init, start=start, finish=finish)

    return build


def at_random_first(client: Client, groups: int, rounds: int) -> Client:
    """In the first rounds belong to a random group, drawn anew in each, whatever the losses.

    Args:
      client: receives M stacked models and chooses among them.
      groups: M.
      rounds: how many; 0 is `client` itself.
    """
    if rounds < 1:
        return client

    def build(task: Task) -> ClientUpdate:
        base = client(task)

        def drawn(ctx: Context) -> Array:
            key = keys.for_purpose(ctx.key, keys.Purpose.GROUP)
            return jax.random.randint(key, (), 0, groups, jnp.int32)

        def narrowed(ctx: Context, received: Model) -> Model:
            """All M models alike, so that whichever is chosen is the drawn one."""
            early, at = ctx.round < rounds, drawn(ctx)
            return jax.tree.map(lambda x: jnp.where(early, x[at][None], x), received)

        def start(ctx: Context, received: Model, row: PyTree, data: ClientData) -> PyTree:
            return base.start(ctx, narrowed(ctx, received), row, data)

        def step(ctx: Context, t: Array, work: PyTree, received: Model, data: ClientData) -> PyTree:
            return base.step(ctx, t, work, narrowed(ctx, received), data)

        def finish(
            ctx: Context, work: PyTree, received: Model, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            said, row = base.finish(ctx, work, narrowed(ctx, received), row, data)
            group = jnp.where(ctx.round < rounds, drawn(ctx), said.group)
            return said._replace(group=group, aux=said.aux | {"group": group}), row

        return base._replace(start=start, step=step, finish=finish)

    return build


def chosen_model(ctx: Context, task: Task, models: Model, row: Array, data: ClientData) -> Model:
    """The model that a client would use: of the group it remembers, else of the lowest loss.

    A client that never took part compares the M models on its own first examples, at most 256.

    Args:
      ctx: the client's context.
      task: gives the loss.
      models: leaves `[M, ...]`.
      row: int32, the remembered group or -1.
      data: its own training examples.

    Cost: nothing for a client that took part, where one lane works at a time; else M forward
      passes over one batch.
    """
    rule = Batches(size=min(_LOOK, max(data.longest, 1)), shuffle=False)

    def best() -> Array:
        batch = data.batch(rule, jnp.zeros(2, jnp.uint32), jnp.int32(0))
        key = keys.for_purpose(ctx.key, keys.Purpose.LOSS)
        return lowest(jax.lax.map(lambda model: task.loss(key, model, batch)[0], models))

    group = jax.lax.cond(row == UNSEEN, best, lambda: row)
    return tree.take(models, jnp.maximum(group, 0))
