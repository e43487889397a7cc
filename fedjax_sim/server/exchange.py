"""Servers that first ask for gradients, and servers whose optimizer lives on gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model, PyTree
from fedjax_sim.server.optimizer import ServerState, apply_aggregate, first_state, rescaled

Step = Callable[[ServerState, Model, PyTree], ServerState]
"""`(state, mean decrease, mean gradient at the state's model) -> state`."""


class AskState(NamedTuple):
    """State of a server that asks first.

    Attributes:
      server: model and optimizer.
      gradient: the mean gradient that was told last.
      known: bool, whether it is that of the present model.
    """

    server: ServerState
    gradient: PyTree
    known: Array


class _Sent(NamedTuple):
    model: Model
    gradient: PyTree
    opt: PyTree


def server_asks(optimizer: optax.GradientTransformation, step: Step) -> ServerUpdate:
    """Keep the mean gradient that measuring clients tell; step on what training ones report.

    The aggregate says which it is (`update.measured`). Where nobody was heard in a round of
    measuring, the round of training after it changes nothing: the gradient is not known.

    Args:
      optimizer: whose state is sent with model and gradient.
      step: how model and optimizer move.

    Cost: P and the optimizer's state of memory beside the model; 2 P and that state down.
    """

    def init(model: Model, n_clients: int) -> AskState:
        del n_clients
        zero = tree.zeros(model.params)
        return AskState(first_state(optimizer, model), zero, jnp.zeros((), bool))

    def update(state: AskState, aggregate: Aggregate, key: Array) -> AskState:
        del key
        told, heard = aggregate.update.model, aggregate.weight > 0
        measured = aggregate.update.measured > 0.5
        trained = step(state.server, told, state.gradient)
        server = tree.where(heard & ~measured & state.known, trained, state.server)
        gradient = tree.where(heard & measured, told.params, state.gradient)
        return AskState(server, gradient, jnp.where(heard, measured, state.known))

    return _sending(init, update, lambda state: state.gradient)


class StatisticsState(NamedTuple):
    """State of MimeLite's server: model and optimizer."""

    server: ServerState


def server_statistics(optimizer: optax.GradientTransformation) -> ServerUpdate:
    """Take the mean model; let the optimizer see the mean gradient at the model before it.

    Args:
      optimizer: the base optimizer, whose state is sent with the model.

    Cost: the optimizer's state of memory beside the model and down; 2 P up.
    """
    step = statistics_step(optimizer)

    def init(model: Model, n_clients: int) -> StatisticsState:
        del n_clients
        return StatisticsState(first_state(optimizer, model))

    def update(state: StatisticsState, aggregate: Aggregate, key: Array) -> StatisticsState:
        del key
        told = aggregate.update
        after = step(state.server, told.model, told.gradient)
        return StatisticsState(tree.where(aggregate.weight > 0, after, state.server))

    return _sending(init, update, lambda state: ())


def statistics_step(optimizer: optax.GradientTransformation) -> Step:
    """Mime's: the model moves by the mean decrease, the optimizer's state by the mean gradient."""

    def step(state: ServerState, update: Model, gradient: PyTree) -> ServerState:
        _, opt = optimizer.update(gradient, state.opt, state.model.params)
        return averaged(state, update)._replace(opt=tree.as_before(opt, state.opt))

    return step


def averaged(state: ServerState, update: Model) -> ServerState:
    """The state whose model moved by the mean decrease, its optimizer left as it is."""
    plain = optax.sgd(1.0)
    first = first_state(plain, state.model)._replace(scale=state.scale)
    moved = apply_aggregate(plain, first, update, jnp.ones((), bool))
    return state._replace(model=moved.model)


def optimizer_step(optimizer: optax.GradientTransformation) -> Step:
    """A step of `optimizer` on the mean decrease; the gradient served the clients alone."""

    def step(state: ServerState, update: Model, gradient: PyTree) -> ServerState:
        del gradient
        return apply_aggregate(optimizer, state, update, jnp.ones((), bool))

    return step


def _sending(
    init: Callable[..., Any], update: Callable[..., Any], gradient_of: Callable[[Any], PyTree]
) -> ServerUpdate:
    def receive(sent: _Sent, member: Member) -> _Sent:
        del member
        return sent

    return ServerUpdate(
        init=init,
        send=lambda state: _Sent(state.server.model, gradient_of(state), state.server.opt),
        receive=receive,
        update=update,
        model=lambda state: state.server.model,
        rescale=lambda state, factor: state._replace(server=rescaled(state.server, factor)),
    )
