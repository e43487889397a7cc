"""Edge servers below a cloud: each averages its own clients, the cloud averages them at times."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.core import tree
from fedjax_sim.core.checks import integer
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model
from fedjax_sim.server.many import Own, fixed_groups, refuse_other_count, server_many
from fedjax_sim.server.optimizer import ServerState


class EdgesState(NamedTuple):
    """What edges and cloud know.

    Attributes:
      edges: the edge servers' models, leaves `[M, ...]`.
      weight: `[M]`, weight reported to each edge since the cloud last averaged.
      rounds: int32, rounds since then in which anyone was heard.
    """

    edges: ServerState
    weight: Array
    rounds: Array


def server_edges(edges: int, *, edge_rounds: int = 1, ids: Any = None) -> ServerUpdate:
    """Each round an edge moves by its own clients' mean; every `edge_rounds` all meet.

    `x_l <- x_l - mean of edge l's updates`, and at a meeting
    `x_l <- sum_l W_l x_l / sum_l W_l` for all l, W_l the weight reported to edge l since the
    last one. An edge that nobody reported to since then has no say: it is where the cloud
    was. Rounds in which nobody is heard are not counted.

    Args:
      edges: M.
      edge_rounds: rounds from one meeting to the next (the paper's kappa 2).
      ids: int `[N]`, each client's edge; client i is at edge `i % M` by default.

    Cost: M x P memory.
    """
    integer("edges", edges, least=1)
    every = integer("edge_rounds", edge_rounds, least=1)
    base = server_many(optax.sgd(1.0), edges, start="same", of=fixed_groups(edges, ids))

    def init(model: Model, n_clients: int) -> EdgesState:
        refuse_other_count(ids, n_clients)
        nothing = jnp.zeros(edges)
        return EdgesState(base.init(model, n_clients), nothing, jnp.zeros((), jnp.int32))

    def receive(sent: Model, member: Member) -> Own:
        return base.receive(sent, member)

    def update(state: EdgesState, aggregate: Aggregate, key: Array) -> EdgesState:
        moved = base.update(state.edges, aggregate, key)
        weight = state.weight + aggregate.aux["group_weight"].astype(state.weight.dtype)
        after = EdgesState(moved, weight, state.rounds + 1)
        cloud = cloud_model(after)
        met = EdgesState(
            edges=moved._replace(
                model=jax.tree.map(
                    lambda one, many: jnp.broadcast_to(one, many.shape), cloud, moved.model
                )
            ),
            weight=jnp.zeros_like(weight),
            rounds=jnp.zeros_like(after.rounds),
        )
        after = tree.where(after.rounds >= every, met, after)
        return tree.where(aggregate.weight > 0, after, state)

    return ServerUpdate(
        init=init,
        send=lambda state: state.edges.model,
        receive=receive,
        update=update,
        model=cloud_model,
    )


def cloud_model(state: EdgesState) -> Model:
    """What the cloud would have if the edges met now; between meetings nobody holds it."""
    total = jnp.sum(state.weight)
    share = state.weight / jnp.where(total > 0, total, 1)
    # Right after a meeting, and before the first, all edges are alike.
    share = jnp.where(total > 0, share, (jnp.arange(share.shape[0]) == 0).astype(share.dtype))
    return mixed(state.edges.model, share)


def mixed(models: Model, share: Array) -> Model:
    """`sum_m share_m x_m` of models `[M, ...]`; whole numbers are rounded.

    Args:
      models: leaves `[M, ...]`.
      share: `[M]`, summing to 1. A model of share 0 is not looked at, be it NaN.
    """

    def one(x: Array) -> Array:
        wide = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(share.dtype)
        weight = share.astype(wide.dtype).reshape(share.shape + (1,) * (x.ndim - 1))
        mean = jnp.sum(jnp.where(weight > 0, weight * wide, 0), axis=0)
        return mean if wide.dtype == x.dtype else jnp.round(mean).astype(x.dtype)

    return jax.tree.map(one, models)
