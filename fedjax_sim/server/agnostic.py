"""The server of agnostic federated learning: it seeks the mixture of domains it does worst on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.aggregation.simplex import onto_simplex
from fedjax_sim.aggregation.tilted import ROW_WEIGHT
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model
from fedjax_sim.server.optimizer import ServerState, apply_aggregate, first_state, rescaled


class AgnosticState(NamedTuple):
    """Server state and what is known of the M domains.

    Attributes:
      server: the model, its optimizer's state and scale.
      shares: lambda `[M]`, on the simplex; equal at first.
      losses: the last known loss of each domain, `[M]`.
      heard: int32 `[M]`, rounds in which each was heard.
    """

    server: ServerState
    shares: Array
    losses: Array
    heard: Array


class _Sent(NamedTuple):
    model: Model
    share: Array


def server_agnostic(
    optimizer: optax.GradientTransformation,
    rate: Array | float,
    domain_of: Callable[[Array], Array],
    *,
    domains: int | None = None,
    loss: str,
) -> ServerUpdate:
    """Step on the aggregate; `lambda <- onto_simplex(lambda + rate F)`, F the domains' losses.

    Both use what was known when the round began. A domain that is not heard in a round goes in
    with its last known loss; one that was never heard, with the mean of those known.

    Args:
      optimizer: applied to the aggregate, as in `server_opt`.
      rate: of lambda's ascent.
      domain_of: `client id -> domain`; picks a client's share.
      domains: M; None for the number of clients.
      loss: name of the clients' losses among the collected values of `Aggregate.aux`, which
        also has `group` and `row_weight`, all `[K]`.

    Cost: `M log M`.
    Reference: Mohri et al., Agnostic Federated Learning, 2019, arXiv:1902.00146.
    """

    def init(model: Model, n_clients: int) -> AgnosticState:
        m = n_clients if domains is None else domains
        shares, nothing = jnp.full(m, 1 / m), jnp.zeros(m)
        heard = jnp.zeros(m, jnp.int32)
        return AgnosticState(first_state(optimizer, model), shares, nothing, heard)

    def receive(sent: _Sent, member: Member) -> _Sent:
        return _Sent(sent.model, sent.share[domain_of(member.id)])

    def update(state: AgnosticState, aggregate: Aggregate, key: Array) -> AgnosticState:
        del key
        server = apply_aggregate(optimizer, state.server, aggregate.update, aggregate.weight > 0)
        weight = aggregate.aux[ROW_WEIGHT]
        losses, heard = _by_domain(aggregate.aux[loss], aggregate.aux["group"], weight, state)
        known = heard > 0
        typical = jnp.sum(jnp.where(known, losses, 0)) / jnp.maximum(jnp.sum(known), 1)
        climbed = state.shares + rate * jnp.where(known, losses, typical[None])
        shares = jnp.where(jnp.any(weight > 0), onto_simplex(climbed), state.shares)
        return AgnosticState(server, shares.astype(state.shares.dtype), losses, heard)

    return ServerUpdate(
        init=init,
        send=lambda state: _Sent(state.server.model, state.shares),
        receive=receive,
        update=update,
        model=lambda state: state.server.model,
        rescale=lambda state, factor: state._replace(server=rescaled(state.server, factor)),
    )


def _by_domain(
    loss: Array, domain: Array, weight: Array, state: AgnosticState
) -> tuple[Array, Array]:
    """The domains' losses, weighted means over the clients heard, and their rounds."""
    m = state.shares.shape[0]
    mass = jax.ops.segment_sum(jnp.where(weight > 0, weight, 0), domain, m)
    total = jax.ops.segment_sum(jnp.where(weight > 0, weight * loss, 0), domain, m)
    new = mass > 0
    fresh = total / jnp.where(new, mass, 1)
    losses = jnp.where(new, fresh, state.losses).astype(state.losses.dtype)
    return losses, state.heard + new
