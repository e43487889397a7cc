"""Leaving a saddle by chance: noise where the aggregated update has died down."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.core import tree
from fedjax_sim.core.checks import number
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model
from fedjax_sim.server.directions import in_ball, norm
from fedjax_sim.server.optimizer import ServerState, apply_aggregate, first_state, rescaled


class PerturbedState(NamedTuple):
    """State of a server that perturbs.

    Attributes:
      server: model and optimizer.
      rest: int32, rounds that must still pass before the next perturbation.
      perturbations: int32, how many there were.
    """

    server: ServerState
    rest: Array
    perturbations: Array


def server_perturbed(
    optimizer: optax.GradientTransformation,
    *,
    radius: Array | float,
    threshold: Array | float,
    wait: Array | float,
) -> ServerUpdate:
    """Step with `optimizer`; where the update is small, also jump to a random point nearby.

    With d the aggregated update and b uniform in the unit ball of R^P,

        x <- x - server(d) + radius b   if |d| <= threshold and the last jump is > wait rounds ago
        x <- x - server(d)              otherwise

    Near a strict saddle nearly all of the ball lies off its stable manifold, so plain descent
    leaves from there; near a minimum it comes back, and is disturbed again every `wait + 1`
    rounds. `radius = 0` is `server_opt(optimizer)`.

    Args:
      optimizer: applied to the aggregated decrease.
      radius: of the ball, in the units of the parameters.
      threshold: of |d|, in the units of the update: after local steps of rate r from a gradient
        g that is about `r x steps x |g|`. Above the noise of the cohort's updates, or it never
        acts; far above, and it acts everywhere.
      wait: rounds that the descent is given to leave; the paper's bound grows with
        `log(P) / (rate x negative curvature)`.

    Returns:
      A server whose state is `PerturbedState`; rounds in which nobody reports change nothing
      and do not count as waiting.

    Raises:
      InputError: a number that is negative or not finite.

    Cost: P normal draws in a round that perturbs, none in others (all rounds under `vmap`).
    Reference: Jin, Ge, Netrapalli, Kakade and Jordan, How to Escape Saddle Points Efficiently,
      2017, arXiv:1703.00887, algorithm 2. The paper tests the gradient at the point that is
      disturbed, ours the update that led to it: the point's own is known one round later. The
      paper ends where a jump brought no decrease; here the run decides when to end.
    """
    for name, value in (("radius", radius), ("threshold", threshold), ("wait", wait)):
        number(f"algorithm.{name}", value, least=0)

    def init(model: Model, n_clients: int) -> PerturbedState:
        del n_clients
        nothing = jnp.zeros((), jnp.int32)
        return PerturbedState(first_state(optimizer, model), nothing, nothing)

    def receive(sent: Model, member: Member) -> Model:
        del member
        return sent

    def update(state: PerturbedState, aggregate: Aggregate, key: Array) -> PerturbedState:
        heard = aggregate.weight > 0
        due = heard & (norm(aggregate.update.params) <= threshold) & (state.rest == 0)
        stepped = apply_aggregate(optimizer, state.server, aggregate.update, heard)
        params = jax.lax.cond(
            due,
            lambda p: tree.as_before(tree.add(p, in_ball(key, p, radius)), p),
            lambda p: p,
            stepped.model.params,
        )
        server = stepped._replace(model=stepped.model._replace(params=params))
        pause = jnp.ceil(jnp.asarray(wait, float)).astype(jnp.int32)
        rest = jnp.where(due, pause, jnp.maximum(state.rest - 1, 0))
        after = PerturbedState(server, rest, state.perturbations + due.astype(jnp.int32))
        return tree.where(heard, after, state)

    return ServerUpdate(
        init=init,
        send=lambda state: state.server.model,
        receive=receive,
        update=update,
        model=lambda state: state.server.model,
        rescale=lambda state, factor: state._replace(server=rescaled(state.server, factor)),
    )
