"""Servers that have a part of the model; the rest is the clients'."""

from __future__ import annotations

from collections.abc import Callable

from fedjax_sim.core import parts
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Model, PyTree

Where = Callable[[Model], Model]
"""`Model -> Model` of static bools."""


def server_part(base: ServerUpdate, where: Where) -> ServerUpdate:
    """Hold, send and step all of the model but its masked part, which clients keep.

    Args:
      base: any server whose state is made from a `Model`; it sees None where leaves are left out.
      where: what the server does not have.
    """

    def init(model: Model, n_clients: int) -> PyTree:
        return base.init(parts.without(model, where(model)), n_clients)

    return base._replace(init=init)
