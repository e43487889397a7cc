"""Leaving a saddle by its own curvature: descent, and steps along negative eigenvectors."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.core import keys, tree
from fedjax_sim.core.checks import number
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model, PyTree
from fedjax_sim.server import ritz
from fedjax_sim.server.directions import add_scaled, dot, norm, on_sphere
from fedjax_sim.server.optimizer import ServerState, apply_aggregate, first_state, rescaled
from fedjax_sim.server.ritz import Ritz

ACCURACY = 0.1  # of a residual, as a share of |Rayleigh quotient|: an eigenvector well enough


class CurvatureState(NamedTuple):
    """State of a server that follows negative curvature.

    Attributes:
      server: model and optimizer.
      ritz: the recurrence for the lowest eigenvector.
      calm: int32, rounds of small gradients up to now: the model has hardly moved in them.
      rayleigh: Rayleigh quotient of the best vector when last measured, in units of the loss
        per squared parameter; infinite before that.
      residual: its residual's norm: an eigenvalue lies that near.
      lipschitz: how fast the Hessian changes, as assumed for the next curvature step.
      step: signed length of the curvature step that the last round took; 0 where it took none.
      slope: of the loss along the best vector before that step.
      leaps: int32, curvature steps so far; one that is shortened counts once.
    """

    server: ServerState
    ritz: Ritz
    calm: Array
    rayleigh: Array
    residual: Array
    lipschitz: Array
    step: Array
    slope: Array
    leaps: Array


class _Sent(NamedTuple):
    model: Model
    direction: PyTree


class _Found(NamedTuple):
    """What a round's report says of the recurrence.

    Attributes:
      ritz: with the product taken in.
      rayleigh: of the best vector.
      residual: of the same.
      small: the gradient is.
      trusted: all products of the recurrence belong to (nearly) this model.
      ended: the recurrence has converged or used up its probes.
      leap: a curvature step is due.
    """

    ritz: Ritz
    rayleigh: Array
    residual: Array
    small: Array
    trusted: Array
    ended: Array
    leap: Array


def server_curvature(
    optimizer: optax.GradientTransformation,
    *,
    threshold: Array | float,
    tolerance: Array | float,
    lipschitz: Array | float,
    probes: Array | float,
) -> ServerUpdate:
    """Step with `optimizer`, and along negative curvature where the gradient is small.

    Clients report the gradient g and the product H q with a direction q that the server sends
    (`clients.curvature`). The server improves a unit vector v towards the lowest eigenvector of
    H, one product a round (`server.ritz`), with its Rayleigh quotient m = v'Hv. Then

        x <- x - sign(g'v) s v,  s = (|m| + sqrt(m^2 + 2 M |g'v|)) / M
             where |g| <= threshold or the last round's such step brought the loss down,
             m < -tolerance, and v is settled: its residual is at most a tenth of |m|, or the
             probes are used up
        x <- x - server(g)   otherwise

    s minimises the cubic model `-|g'v| s + m s^2/2 + M s^3/6`, which promises a decrease of at
    least `2 |m|^3 / (3 M^2)`. The sign is drawn at random where g'v is lost in rounding. M is
    `lipschitz` at first. The next round's report tells slope and curvature at the step's end,
    and so, by Hermite's rule, what the step brought: where the loss rose, the step is shortened
    with M at least doubled, until it falls; M then becomes what was measured,
    `|H_after v - H_before v| / s`, but at least half of what it was. Where the probes find no
    negative curvature, v is drawn anew.

    Args:
      optimizer: applied to the aggregated gradient.
      threshold: of |g|; above the noise of the cohort's gradient, or no step is taken.
      tolerance: curvature above minus this counts as none.
      lipschitz: first guess of M, in units of curvature per parameter.
      probes: most products spent on one vector.

    Returns:
      A server whose state is `CurvatureState`; a round in which nobody reports changes nothing.

    Raises:
      InputError: a number out of range.

    Cost: 2 P down and 2 P up a client, 5 P more at the server, and about 30 P multiply-adds.
    Reference: Carmon, Duchi, Hinder and Sidford, Accelerated Methods for Nonconvex
      Optimization, 2018, arXiv:1611.00756, which alternates such steps with descent. Ours takes
      the length from the cubic model (Nesterov and Polyak, Cubic Regularization of Newton
      Method, 2006) with an adapted M, and leaves descent to optax.
    """
    number("algorithm.threshold", threshold, least=0)
    number("algorithm.tolerance", tolerance, least=0)
    number("algorithm.lipschitz", lipschitz, above=0)
    number("algorithm.probes", probes, least=1)

    def init(model: Model, n_clients: int) -> CurvatureState:
        del n_clients
        zero, far, none = jnp.zeros(()), jnp.full((), jnp.inf), jnp.zeros((), jnp.int32)
        server, begun = first_state(optimizer, model), ritz.nothing(model.params)
        guess = jnp.asarray(lipschitz, zero.dtype)
        return CurvatureState(server, begun, none, far, far, guess, zero, zero, none)

    def receive(sent: _Sent, member: Member) -> _Sent:
        del member
        return sent

    def found(state: CurvatureState, gradient: PyTree, product: PyTree) -> _Found:
        now = ritz.absorb(state.ritz, product)
        rayleigh, residual = ritz.quotient(now)
        small = norm(gradient) <= threshold
        trusted = (now.age >= 0) & (state.calm >= now.age)
        rounding = _rounding(product) * norm(now.best.product)
        ended = (residual <= rounding) | (now.age + 1 >= probes)
        settled = (residual <= ACCURACY * jnp.abs(rayleigh)) | ended
        # One more where the last one paid: as long as the slope bends down, it gets steeper.
        leap = (small | (state.step != 0)) & trusted & (rayleigh < -tolerance) & settled
        return _Found(now, rayleigh, residual, small, trusted, ended, leap)

    def update(state: CurvatureState, aggregate: Aggregate, key: Array) -> CurvatureState:
        told = aggregate.update
        shorter, rate = _review(state, told.model.params, told.product)
        seen = found(state, told.model.params, told.product)
        plain = apply_aggregate(optimizer, state.server, told.model, aggregate.weight > 0)
        draw, coin = keys.fold_in(key, 0), keys.fold_in(key, 1)
        leapt = _leap(state, seen, told.model.params, rate, shorter, plain, coin)
        went = _descent(state, seen, rate, plain, draw)
        after = tree.where(shorter | seen.leap, leapt, went)
        return tree.where(aggregate.weight > 0, after, state)

    return ServerUpdate(
        init=init,
        send=lambda state: _Sent(state.server.model, state.ritz.asked),
        receive=receive,
        update=update,
        model=lambda state: state.server.model,
        rescale=lambda state, factor: state._replace(server=rescaled(state.server, factor)),
    )


def _review(state: CurvatureState, gradient: PyTree, product: PyTree) -> tuple[Array, Array]:
    """Whether the last round's curvature step must be shortened, and M after it."""
    tried, v = state.step != 0, state.ritz.best.vector
    slope, curvature = dot(gradient, v), dot(product, v)
    rise = state.step / 2 * (state.slope + slope)
    rise = rise - state.step**2 / 12 * (curvature - state.rayleigh)
    shorter = tried & ~(rise <= 0)
    change = norm(tree.sub(product, state.ritz.best.product))
    measured = change / jnp.where(tried, jnp.abs(state.step), 1)
    bounded = jnp.maximum(measured, state.lipschitz * jnp.where(shorter, 2.0, 0.5))
    return shorter, jnp.where(tried, bounded, state.lipschitz)


def _leap(
    state: CurvatureState,
    seen: _Found,
    gradient: PyTree,
    rate: Array,
    shorter: Array,
    plain: ServerState,
    coin: Array,
) -> CurvatureState:
    """The state after a curvature step, or after the last one was made shorter."""
    v = seen.ritz.best.vector
    slope = jnp.where(shorter, state.slope, dot(gradient, v))
    rayleigh = jnp.where(shorter, state.rayleigh, seen.rayleigh)
    depth = jnp.abs(rayleigh)
    length = (depth + jnp.sqrt(depth**2 + 2 * rate * jnp.abs(slope))) / rate
    lost = jnp.abs(slope) <= _rounding(gradient) * depth * length
    drawn = jnp.where(jax.random.bernoulli(coin), 1, -1)
    step = jnp.where(lost, drawn, -jnp.sign(slope)) * length * plain.scale
    move = step - jnp.where(shorter, state.step, 0)
    params = add_scaled(state.server.model.params, v, move)
    # The old product stays beside the best vector: after the step it tells how H has changed.
    begun = ritz.start(v)._replace(best=seen.ritz.best)
    return CurvatureState(
        state.server._replace(model=Model(params, plain.model.state)),
        tree.where(shorter, state.ritz, begun),
        jnp.zeros_like(state.calm),
        rayleigh,
        jnp.where(shorter, state.residual, seen.residual),
        rate,
        step,
        slope,
        state.leaps + (~shorter).astype(jnp.int32),
    )


def _descent(
    state: CurvatureState, seen: _Found, rate: Array, plain: ServerState, draw: Array
) -> CurvatureState:
    """The state after a step of the optimizer; it says what to ask the clients for next."""
    unknown = seen.ritz.age < 0
    anew = unknown | (seen.small & seen.trusted & seen.ended)
    # While the model moves, a product is old after one round: best and residual in turn.
    stale = ~seen.small & ((seen.ritz.age > 0) | seen.ended)
    again = anew | stale | (seen.small & ~seen.trusted)
    best = seen.ritz.best.vector
    fresh = ritz.start(jax.lax.cond(anew, lambda: on_sphere(draw, best), lambda: best))
    return CurvatureState(
        plain,
        tree.where(again, fresh, ritz.proceed(seen.ritz)),
        jnp.where(seen.small, state.calm + 1, 0),
        jnp.where(unknown, jnp.inf, seen.rayleigh),
        jnp.where(unknown, jnp.inf, seen.residual),
        rate,
        jnp.zeros_like(state.step),
        jnp.zeros_like(state.slope),
        state.leaps,
    )


def _rounding(like: PyTree) -> float:
    """A relative error that rounding explains: the root of the narrowest leaf's epsilon."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(like)) ** 0.5
