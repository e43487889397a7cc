"""A server that keeps every client's model, and what clients think of each other's."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.aggregation.by_client import CLIENT, REPORTS
from fedjax_sim.aggregation.grouped import ROW_WEIGHT
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Context, Member, Model, PyTree


class Table(NamedTuple):
    """What the server knows, and what a lane may read.

    Attributes:
      models: leaves `[N, ...]`; the first model for who never reported.
      known: bool `[N]`, who ever reported.
      affinity: `[N, N]`, how much client i gained of model j so far; `()` where nobody asks.
    """

    models: Model
    known: Array
    affinity: Any


def model_in_table(ctx: Context, state: Table, row: PyTree, data: Any) -> Model:
    """A `model_of`: the client's model as the server has it."""
    del row, data
    return tree.take(state.models, ctx.member.id)


def server_table(*, affinity: bool = False) -> ServerUpdate:
    """Keep the last model of every client, moved by its reports.

    A report that is not finite is left out, so that no client is given a broken model.

    Args:
      affinity: whether clients tell `chosen` int32 `[M]` and `gain` `[M]`, which are added up.

    Returns:
      A server for aggregates of `aggregation.by_client`; clients receive the whole `Table`, to
      take from it what their algorithm sends them.

    Cost: N x P memory on every device, N^2 numbers more with `affinity`; K x P writes a round.
    """

    def init(model: Model, n_clients: int) -> Table:
        models = jax.tree.map(lambda x: jnp.broadcast_to(x, (n_clients, *jnp.shape(x))), model)
        gained = jnp.zeros((n_clients, n_clients)) if affinity else ()
        return Table(models, jnp.zeros(n_clients, bool), gained)

    def receive(sent: Table, member: Member) -> Table:
        del member
        return sent

    def update(state: Table, aggregate: Aggregate, key: Array) -> Table:
        del key
        told, n = aggregate.aux, state.known.shape[0]
        heard = (told[ROW_WEIGHT] > 0) & _finite(told[REPORTS], told[ROW_WEIGHT].shape[0])
        client = told[CLIENT]
        at = jnp.where(heard, client, n)

        def move(models: Array, decrease: Array) -> Array:
            new = models[client] - decrease.astype(models.dtype)
            return models.at[at].set(new, mode="drop")

        gained = state.affinity
        if affinity:
            gain = told["gain"].astype(gained.dtype)
            gained = gained.at[at[:, None], told["chosen"]].add(gain, mode="drop")
        models = jax.tree.map(move, state.models, told[REPORTS])
        return Table(models, state.known.at[at].set(True, mode="drop"), gained)

    return ServerUpdate(
        init=init,
        send=lambda state: state,
        receive=receive,
        update=update,
        model=lambda state: tree.take(state.models, jnp.int32(0)),
    )


def _finite(rows: PyTree, k: int) -> Array:
    """Bool `[K]`: whether all numbers of a row are finite."""
    checks = [jnp.all(jnp.isfinite(x.reshape(k, -1)), axis=1) for x in jax.tree.leaves(rows)]
    return jnp.all(jnp.stack(checks), axis=0)
