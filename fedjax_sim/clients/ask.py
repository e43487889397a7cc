"""Clients that ask for other clients' models and begin with those that suit them (FedFomo)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.clients.neighbours import (
    Client,
    begins_with,
    mix,
    others_of,
    squared_distances,
)
from fedjax_sim.clients.phases import LossWork, losses, phases
from fedjax_sim.core import keys, tree
from fedjax_sim.core.checks import integer
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree
from fedjax_sim.data.batching import ClientData


class Compared(NamedTuple):
    """The server's table, whom the client asked for, and how all did on its validation part.

    Attributes:
      table: received.
      chosen: int32 `[M]`.
      valid: bool `[M]`, False where there was nobody left to ask for.
      loss: `[1 + M]`, the client's own first.
    """

    table: Any
    chosen: Array
    valid: Array
    loss: Array

    @property
    def models(self) -> Model:
        """All clients' models."""
        return self.table.models


class AskedWork(NamedTuple):
    """Whom the client asked for, and the losses so far."""

    chosen: Array
    valid: Array
    losses: LossWork


def choose(
    key: Array, affinity: Array, others: Array, models: int, epsilon: Array | float
) -> tuple[Array, Array]:
    """Ask for the models of highest affinity, each replaced by a random one with chance epsilon.

    Equals are taken in random order, as all are before the first answer.

    Args:
      key: of this draw.
      affinity: `[N]`, of the client to all.
      others: bool `[N]`, who may be asked for.
      models: M; at most N - 1 are asked for.
      epsilon: in [0, 1].

    Returns:
      `(chosen int32 [M], valid bool [M])`, distinct.
    """
    n = affinity.shape[0]
    m = max(min(models, n - 1), 1)
    # One row of draws: the first N break ties and pick at random, the rest toss the coins.
    draws = jax.random.uniform(key, (n + m,))
    at_random = jnp.sum(draws[n:] < epsilon)
    wanted = jnp.where(others, affinity, -jnp.inf)
    order = jnp.lexsort((draws[:n], -wanted))
    rank = jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32))
    score = jnp.where(rank < m - at_random, 2.0, draws[:n])
    best, chosen = jax.lax.top_k(jnp.where(others, score, -1.0), m)
    return chosen.astype(jnp.int32), best >= 0


def held_out(share: Array | float) -> tuple[Callable[..., ClientData], Callable[..., ClientData]]:
    """`(training part, validation part)` of a client's window: its last examples are held out.

    `ceil(share n)` of n examples are, but never all; a client with a single one has it in both.

    Args:
      share: in (0, 1).
    """

    def many(data: ClientData) -> Array:
        wanted = jnp.ceil(data.size * share - 1e-6).astype(jnp.int32)
        return jnp.clip(wanted, 1, jnp.maximum(data.size - 1, 1))

    def training(data: ClientData) -> ClientData:
        left = data.size - many(data)
        return dataclasses.replace(data, size=jnp.where(left > 0, left, data.size))

    def validation(data: ClientData) -> ClientData:
        size = jnp.minimum(many(data), data.size)
        return dataclasses.replace(data, offset=data.offset + data.size - size, size=size)

    return training, validation


def first_order(
    client: Client, models: int, share: Array | float, epsilon: Array | float
) -> Client:
    """Ask for other models, measure them on held-out examples, begin with those that do better.

    `w_j = (L(theta_i) - L(theta_j)) / |theta_j - theta_i|`, and the client begins with
    `sum_j max(w_j, 0) theta_j / sum_j max(w_j, 0)`, or with its own where none is better.

    Args:
      client: `clients.sgd.local`.
      models: M, see `choose`.
      share: see `held_out`.
      epsilon: see `choose`.

    Returns:
      `Task -> ClientUpdate` that receives a `server.table.Table` with affinities, and tells
      `chosen` int32 `[M]` and `gain` `[M]`, the w_j, 0 where there is none.

    Cost: 1 + M forward passes over the held-out examples; with more lanes than one the mixture
      is made in every step.
    """
    asked = integer("algorithm.models", models, least=1)
    training, validation = held_out(share)
    trains = begins_with(client, _of_the_better, training)
    return phases(
        _measuring(asked, epsilon, validation),
        trains,
        given=lambda table, work: Compared(table, work.chosen, work.valid, work.losses.mean),
    )


def _measuring(
    models: int, epsilon: Array | float, window: Callable[[ClientData], ClientData]
) -> Client:
    """The first phase: the loss of the own model and of those that were asked for."""

    def build(task: Task) -> ClientUpdate:
        base = losses(models=True)(task)

        def stack(table: Any, work: AskedWork, ctx: Context) -> Model:
            return tree.take(table.models, jnp.append(ctx.member.id, work.chosen))

        def start(ctx: Context, table: Any, row: PyTree, data: ClientData) -> AskedWork:
            del row, data
            key = keys.for_purpose(ctx.key, keys.Purpose.SAMPLE)
            liking = table.affinity[ctx.member.id]
            found = choose(key, liking, others_of(table, ctx), models, epsilon)
            nothing = LossWork(jnp.zeros(1 + found[0].shape[0]), jnp.zeros(()))
            return AskedWork(*found, nothing)

        def step(
            ctx: Context, t: Array, work: AskedWork, table: Any, data: ClientData
        ) -> AskedWork:
            seen = base.step(ctx, t, work.losses, stack(table, work, ctx), window(data))
            return work._replace(losses=seen)

        return base._replace(
            steps=lambda ctx, data: base.steps(ctx, window(data)), start=start, step=step
        )

    return build


def _of_the_better(ctx: Context, got: Compared) -> tuple[Model, dict[str, Array]]:
    own = tree.take(got.models, ctx.member.id)
    asked = tree.take(got.models, got.chosen)
    far = jnp.sqrt(squared_distances(own.params, asked.params))
    apart = got.valid & (far > 0)
    gain = (got.loss[0] - got.loss[1:]) / jnp.where(apart, far, 1)
    gain = jnp.where(apart & jnp.isfinite(gain), gain, 0)
    better = jnp.maximum(gain, 0)
    total = jnp.sum(better)
    mixed = mix(asked, better / jnp.where(total > 0, total, 1))
    return tree.where(total > 0, mixed, own), {"chosen": got.chosen, "gain": gain}
