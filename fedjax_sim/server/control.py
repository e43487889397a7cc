"""Servers that answer for the clients who are not here: SCAFFOLD, FedDyn, FedSplit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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
        control = tree.zeros(model.params)
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


class DynamicState(NamedTuple):
    """Server state, the mean dual variable h, and N as a float scalar."""

    server: ServerState
    dual: PyTree
    n_clients: Array


def server_dynamic(alpha: Array | float) -> ServerUpdate:
    """FedDyn: `h <- h + alpha n_present / N u; x <- x - u - h / alpha`, u the mean decrease.

    h is the mean over all clients of the gradients that their last models answer for.

    Args:
      alpha: above 0, that of the clients.

    Cost: P of memory beside the model; nothing more travels than with FedAvg.
    Reference: Acar et al., Federated Learning Based on Dynamic Regularization, 2021,
      arXiv:2111.04263, algorithm 1.
    """
    step = optax.sgd(1.0)

    def init(model: Model, n_clients: int) -> DynamicState:
        dual = tree.zeros(model.params)
        return DynamicState(first_state(step, model), dual, jnp.asarray(n_clients, float))

    def update(state: DynamicState, aggregate: Aggregate, key: Array) -> DynamicState:
        del key
        heard, told = aggregate.weight > 0, aggregate.update
        share = aggregate.n_present / state.n_clients
        dual = tree.add(state.dual, tree.scale(told.params, alpha * share))
        moved = tree.add(told.params, tree.scale(dual, 1 / alpha))
        server = apply_aggregate(step, state.server, told._replace(params=moved), heard)
        return DynamicState(server, tree.where(heard, dual, state.dual), state.n_clients)

    return _sending_the_model(init, update)


class ShareState(NamedTuple):
    """Server state, and N as a float scalar."""

    server: ServerState
    n_clients: Array


def server_share(optimizer: optax.GradientTransformation) -> ServerUpdate:
    """Step on `n_present / N` of the mean: whoever is absent counts as one that has not moved.

    With uniform weights a model that is the mean of something all clients keep stays it, whoever
    takes part.

    Args:
      optimizer: applied to the population's mean decrease; `sgd(1.0)` adds it.
    """

    def init(model: Model, n_clients: int) -> ShareState:
        return ShareState(first_state(optimizer, model), jnp.asarray(n_clients, float))

    def update(state: ShareState, aggregate: Aggregate, key: Array) -> ShareState:
        del key
        told, share = aggregate.update, aggregate.n_present / state.n_clients
        mine = told._replace(params=tree.scale(told.params, share))
        heard = aggregate.weight > 0
        return state._replace(server=apply_aggregate(optimizer, state.server, mine, heard))

    return _sending_the_model(init, update)


def _sending_the_model(init: Callable[..., Any], update: Callable[..., Any]) -> ServerUpdate:
    """A server of states with a `.server` whose clients receive the model and nothing else."""

    def receive(sent: Model, member: Member) -> Model:
        del member
        return sent

    return ServerUpdate(
        init=init,
        send=lambda state: state.server.model,
        receive=receive,
        update=update,
        model=lambda state: state.server.model,
        rescale=lambda state, factor: state._replace(server=rescaled(state.server, factor)),
    )
