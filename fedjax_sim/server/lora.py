"""The server that keeps a frozen model and steps on low-rank factors beside it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model, PyTree
from fedjax_sim.server.optimizer import ServerState, apply_aggregate, first_state, rescaled
from fedjax_sim.tasks import lora
from fedjax_sim.tasks.lora import Adapted


class LoraState(NamedTuple):
    """The server's state of the factors, and the frozen parameters."""

    server: ServerState
    base: PyTree


def server_lora(
    optimizer: optax.GradientTransformation,
    rank: int,
    alpha: Array | float,
    base: Model | None = None,
) -> ServerUpdate:
    """Average the factors; the global model is the base with them merged in.

    Args:
      optimizer: applied to the factors' mean decrease.
      rank: r.
      alpha: see `clients.lora.adapting`.
      base: the frozen model; the run's first model by default.

    Raises:
      InputError: for a base of other shapes.
    """
    integer("algorithm.rank", rank, least=1)

    def init(model: Model, n_clients: int) -> LoraState:
        del n_clients
        frozen = model if base is None else _like(base, model)
        factors = lora.no_factors(frozen.params, rank)
        return LoraState(first_state(optimizer, Model(factors, frozen.state)), frozen.params)

    def draw(key: Array, of_task: object, state: LoraState) -> LoraState:
        del of_task
        model = state.server.model
        model = model._replace(params=lora.drawn(key, model.params))
        return state._replace(server=first_state(optimizer, model))

    def receive(sent: Adapted, member: Member) -> Adapted:
        del member
        return sent

    def update(state: LoraState, aggregate: Aggregate, key: Array) -> LoraState:
        del key
        heard = aggregate.weight > 0
        server = apply_aggregate(optimizer, state.server, aggregate.update, heard)
        return state._replace(server=server)

    def model(state: LoraState) -> Model:
        factors, running = state.server.model
        return Model(lora.merged(state.base, factors, alpha), running)

    return ServerUpdate(
        init=init,
        send=lambda state: Adapted(state.base, state.server.model),
        receive=receive,
        update=update,
        model=model,
        rescale=lambda state, factor: state._replace(server=rescaled(state.server, factor)),
        draw=draw,
    )


def _like(base: Model, model: Model) -> Model:
    if jax.tree.map(jnp.shape, base) != jax.tree.map(jnp.shape, model):
        remedy = "must have the leaves of the run's model"
        raise InputError("algorithm.base", "a model of other shapes", remedy)
    return jax.tree.map(lambda b, m: jnp.asarray(b, m.dtype), base, model)
