"""Servers that hand out what past rounds say: the mean direction, or a model that looks ahead."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import optax

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model, PyTree
from fedjax_sim.server.optimizer import ServerState, apply_aggregate, first_state, rescaled


class PastState(NamedTuple):
    """Server state, and a momentum shaped like params."""

    server: ServerState
    momentum: PyTree


class _Sent(NamedTuple):
    model: Model
    momentum: PyTree


def server_direction(optimizer: optax.GradientTransformation) -> ServerUpdate:
    """Send the model and the mean direction of last round's local steps.

    `m <- sum_i w_i d_i / sum_i w_i l_i` with d_i a client's decrease and l_i the sum of its
    learning rates: over `eta K` where all take K steps of rate eta. It is 0 before round 0 and
    stays where nobody was heard.

    Args:
      optimizer: steps on the mean decrease.

    Reference: Xu et al., FedCM, 2021, arXiv:2106.10874, algorithm 2.
    """

    def init(model: Model, n_clients: int) -> PastState:
        del n_clients
        zeros = tree.zeros(model.params)
        return PastState(first_state(optimizer, model), zeros)

    def update(state: PastState, aggregate: Aggregate, key: Array) -> PastState:
        del key
        decrease, length = aggregate.update.model, aggregate.update.length
        server = apply_aggregate(optimizer, state.server, decrease, aggregate.weight > 0)
        moved = (aggregate.weight > 0) & (length > 0)
        fresh = tree.scale(decrease.params, 1 / jnp.where(moved, length, 1))
        return PastState(server, tree.where(moved, fresh, state.momentum))

    return ServerUpdate(
        init=init,
        send=lambda state: _Sent(state.server.model, state.momentum),
        receive=_receive,
        update=update,
        model=lambda state: state.server.model,
        rescale=_rescale,
    )


def server_lookahead(decay: Array | float) -> ServerUpdate:
    """Send the model that the momentum alone would reach; then step with the momentum.

    Clients receive `x - decay m`; with d the mean decrease from there, `m <- decay m + d` and
    `x <- x - m`: Nesterov's momentum over rounds, found by the clients at the place it looks to.

    Args:
      decay: in [0, 1).

    Reference: Kim et al., Communication-Efficient Federated Learning with Accelerated Client
      Gradient, 2022, arXiv:2201.03172, algorithm 1.
    """
    plain = optax.sgd(1.0)

    def init(model: Model, n_clients: int) -> PastState:
        del n_clients
        zeros = tree.zeros(model.params)
        return PastState(first_state(plain, model), zeros)

    def send(state: PastState) -> Model:
        shift = tree.scale(state.momentum, decay * state.server.scale)
        model = state.server.model
        return Model(tree.sub(model.params, shift), model.state)

    def update(state: PastState, aggregate: Aggregate, key: Array) -> PastState:
        del key
        heard, decrease = aggregate.weight > 0, aggregate.update
        moved = tree.add(tree.scale(state.momentum, decay), decrease.params)
        server = apply_aggregate(plain, state.server, Model(moved, decrease.state), heard)
        return PastState(server, tree.where(heard, moved, state.momentum))

    return ServerUpdate(
        init=init,
        send=send,
        receive=_receive,
        update=update,
        model=lambda state: state.server.model,
        rescale=_rescale,
    )


def _receive(sent: PyTree, member: Member) -> PyTree:
    del member
    return sent


def _rescale(state: PastState, factor: Array) -> PastState:
    return state._replace(server=rescaled(state.server, factor))
