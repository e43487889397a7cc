"""A server that only holds what its single client trained (`centralized`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import optax

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model, PyTree


class Held(NamedTuple):
    """A model and its optimizer's state."""

    model: Model
    opt: PyTree


def server_holds(optimizer: Any) -> ServerUpdate:
    """Send model and optimizer state down, take both back whole."""
    opt = optax.with_extra_args_support(optimizer)

    def init(model: Model, n_clients: int) -> Held:
        del n_clients
        return Held(model, opt.init(model.params))

    def receive(sent: Held, member: Member) -> Held:
        del member
        return sent

    def update(state: Held, aggregate: Aggregate, key: Array) -> Held:
        del key
        return tree.where(aggregate.weight > 0, Held(*aggregate.update), state)

    return ServerUpdate(init, lambda state: state, receive, update, lambda state: state.model)
