"""The server that keeps the mean control variate (SCAFFOLD)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model, PyTree
from fedjax_sim.server.optimizer import ServerState, apply_aggregate, first_state, rescaled


class ControlState(NamedTuple):
    """Server state, control variate c, and N as a float scalar."""

    server: ServerState
    control: PyTree
    n_clients: Array


class _Sent(NamedTuple):
    model: Model
    control: PyTree


def server_control(optimizer: optax.GradientTransformation) -> ServerUpdate:
    """Step on the mean model update; move c by `n_present / N` of the mean change of c_i.

    Reference: Karimireddy et al., SCAFFOLD, 2019, arXiv:1910.06378, algorithm 1.
    """

    def init(model: Model, n_clients: int) -> ControlState:
        server = first_state(optimizer, model)
        control = jax.tree.map(jnp.zeros_like, model.params)
        return ControlState(server, control, jnp.asarray(n_clients, float))

    def receive(sent: _Sent, member: Member) -> _Sent:
        del member
        return sent

    def update(state: ControlState, aggregate: Aggregate, key: Array) -> ControlState:
        del key
        heard = aggregate.weight > 0
        server = apply_aggregate(optimizer, state.server, aggregate.update.model, heard)
        share = aggregate.n_present / state.n_clients
        moved = tree.sub(state.control, tree.scale(aggregate.update.control, share))
        control = tree.where(heard, moved, state.control)
        return ControlState(server, control, state.n_clients)

    return ServerUpdate(
        init=init,
        send=lambda state: _Sent(state.server.model, state.control),
        receive=receive,
        update=update,
        model=lambda state: state.server.model,
        rescale=lambda state, factor: state._replace(server=rescaled(state.server, factor)),
    )
