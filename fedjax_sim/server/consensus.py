"""A server that has no model of its own and keeps a table that clients agree upon."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from fedjax_sim.aggregation.rows import ROWS_WEIGHT
from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model
from fedjax_sim.server.many import fixed_groups
from fedjax_sim.tasks import mixed


class Consensus(NamedTuple):
    """What the server knows, and what it sends.

    Attributes:
      model: with which clients begin; of all architectures, or everyone's.
      value: the table `[R, F]`, rows that nobody reported yet being 0.
      known: bool `[R]`, which rows somebody reported.
    """

    model: Model
    value: Array
    known: Array


def architecture_model(model: Model, member: Member, ids: Any = None) -> Model:
    """A client's part of a model of A architectures.

    Args:
      model: of all architectures, or any other, which is then everyone's.
      member: the client.
      ids: int `[N]`, each client's architecture; client i has `i % A` by default.

    Raises:
      InputError: where ids are no numbers from 0 to A - 1.
    """
    groups = mixed.n_architectures(model)
    try:
        which = fixed_groups(groups, ids)(member)
    except InputError as error:
        raise InputError("algorithm.networks", error.value, error.remedy) from None
    return mixed.own(model, which)


def server_consensus(rows: int, columns: int, *, ids: Any = None) -> ServerUpdate:
    """Keep the aggregated table row by row; rows that nobody reported stay as they were.

    Args:
      rows: R.
      columns: the most columns of a report; narrower ones are filled up with zeros.
      ids: see `architecture_model`.

    Returns:
      A server that sends each client a `Consensus` whose `model` is the client's to begin with.
    """
    integer("rows", rows, least=1)
    integer("columns", columns, least=1)

    def init(model: Model, n_clients: int) -> Consensus:
        if ids is not None and len(ids) != n_clients:
            remedy = f"must be one a client: {n_clients}"
            raise InputError("algorithm.networks", f"{len(ids)} of them", remedy)
        return Consensus(model, jnp.zeros((rows, columns)), jnp.zeros(rows, bool))

    def receive(sent: Consensus, member: Member) -> Consensus:
        return sent._replace(model=architecture_model(sent.model, member, ids))

    def update(state: Consensus, aggregate: Aggregate, key: Array) -> Consensus:
        del key
        r, f = aggregate.update.shape
        heard = jnp.pad(aggregate.aux[ROWS_WEIGHT] > 0, (0, rows - r))
        new = jnp.pad(aggregate.update.astype(state.value.dtype), ((0, rows - r), (0, columns - f)))
        value = tree.where_rows(heard, new, state.value)
        return state._replace(value=value, known=state.known | heard)

    return ServerUpdate(
        init=init,
        send=lambda state: state,
        receive=receive,
        update=update,
        model=lambda state: state.model,
    )
