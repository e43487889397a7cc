"""The server as an optimizer: any optax transformation of the aggregated decrease."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model, PyTree


class ServerState(NamedTuple):
    """The global model, the server optimizer's state, and the scale of its steps (1 at first)."""

    model: Model
    opt: PyTree
    scale: Array


def first_state(optimizer: optax.GradientTransformation, model: Model) -> ServerState:
    """The state before round 0."""
    return ServerState(model, optimizer.init(model.params), jnp.ones(()))


def rescaled(state: ServerState, factor: Array) -> ServerState:
    """The state whose steps are `factor` times as long: a cut of the rate for any optimizer."""
    return state._replace(scale=state.scale * factor)


def apply_aggregate(
    optimizer: optax.GradientTransformation, state: ServerState, update: Model, heard: Array
) -> ServerState:
    """One server step, or `state` itself where nobody was heard.

    Args:
      optimizer: applied to `update.params`, a decrease, as to a gradient.
      state: before.
      update: aggregated `Model` of decreases; `update.state` is subtracted plainly.
      heard: bool scalar.
    """
    step, opt = optimizer.update(update.params, state.opt, state.model.params)
    params = optax.apply_updates(state.model.params, tree.scale(step, state.scale))
    moved = jax.tree.map(_subtract, state.model.state, update.state)
    after = ServerState(Model(params, moved), tree.as_before(opt, state.opt), state.scale)
    return tree.where(heard, after, state)


def _subtract(value: Array, decrease: Array) -> Array:
    if jnp.issubdtype(value.dtype, jnp.floating):
        return value - decrease.astype(value.dtype)
    return value - jnp.round(decrease).astype(value.dtype)


def server_opt(optimizer: optax.GradientTransformation) -> ServerUpdate:
    """Send the model to everyone; step with `optimizer` on the aggregate.

    `optax.sgd(1.0)` is federated averaging. Keeps its state when nobody reported.

    Reference: Reddi et al., Adaptive Federated Optimization, 2020, arXiv:2003.00295,
      algorithm 1.
    """

    def init(model: Model, n_clients: int) -> ServerState:
        del n_clients
        return first_state(optimizer, model)

    def receive(sent: Model, member: Member) -> Model:
        del member
        return sent

    def update(state: ServerState, aggregate: Aggregate, key: Array) -> ServerState:
        del key
        return apply_aggregate(optimizer, state, aggregate.update, aggregate.weight > 0)

    return ServerUpdate(
        init=init,
        send=lambda state: state.model,
        receive=receive,
        update=update,
        model=lambda state: state.model,
        rescale=rescaled,
    )
