"""Servers alone: a step on a decrease, control variates, and what an empty round leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_trees_close, assert_trees_equal

from fedjax_sim.clients.control import Controlled
from fedjax_sim.core.types import Aggregate, Model
from fedjax_sim.server.control import server_control
from fedjax_sim.server.hold import Held, server_holds
from fedjax_sim.server.optimizer import server_opt

MODEL = Model({"x": jnp.array([1.0, 2.0])}, {"mean": jnp.array(3.0), "n": jnp.int32(10)})
KEY = jax.random.key(0)
MOVE = Model({"x": jnp.array([0.5, -1.0])}, {"mean": jnp.array(1.0), "n": jnp.array(2.6)})


def aggregate(update, weight=4.0, n=2):
    return Aggregate(update, jnp.asarray(weight), jnp.int32(n), {})


def test_sgd_of_rate_one_subtracts_the_decrease():
    server = server_opt(optax.sgd(1.0))
    after = server.model(server.update(server.init(MODEL, 5), aggregate(MOVE), KEY))
    np.testing.assert_allclose(after.params["x"], [0.5, 3.0])
    np.testing.assert_allclose(after.state["mean"], 2.0)
    assert (after.state["n"].dtype, int(after.state["n"])) == (jnp.int32, 7)  # 10 - round(2.6)


def test_the_optimizer_touches_params_only():
    server = server_opt(optax.sgd(10.0))
    after = server.model(server.update(server.init(MODEL, 5), aggregate(MOVE), KEY))
    np.testing.assert_allclose(after.params["x"], [-4.0, 12.0])
    np.testing.assert_allclose(after.state["mean"], 2.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: server_opt(optax.adam(0.1)),
        lambda: server_holds(optax.adam(0.1)),
        lambda: server_control(optax.adam(0.1)),
    ],
)
def test_nobody_heard_keeps_everything_bitwise(make):
    """Also when the empty aggregate holds NaN, or 1 in its integers."""
    server = make()
    state = server.init(MODEL, 5)
    sent = server.send(state)
    bad = jax.tree.map(lambda v: jnp.full_like(v, jnp.nan if v.dtype.kind == "f" else 1), sent)
    assert_trees_equal(server.update(state, aggregate(bad, weight=0.0, n=0), KEY), state)


@pytest.mark.parametrize("make", [server_opt, server_control])
def test_a_rescaled_server_takes_shorter_steps_from_then_on(make):
    """Of any optimizer: Adam's step does not care how long the update is."""
    server = make(optax.adam(0.5))
    if make is server_control:
        zeros = jax.tree.map(jnp.zeros_like, MODEL.params)
        update = aggregate(Controlled(MOVE, zeros))
    else:
        update = aggregate(MOVE)
    whole = server.update(server.init(MODEL, 5), update, KEY)
    short = server.update(server.rescale(server.init(MODEL, 5), 0.25), update, KEY)
    step = whole_step(server, whole)
    np.testing.assert_allclose(whole_step(server, short), 0.25 * step, rtol=1e-6)
    np.testing.assert_allclose(np.abs(step), 0.5, rtol=1e-5)
    shorter = server.update(server.rescale(short, 0.5), update, KEY)
    np.testing.assert_allclose(whole_step(server, shorter, short), 0.125 * step, rtol=1e-4)


def whole_step(server, state, before=None):
    start = MODEL if before is None else server.model(before)
    return np.asarray(server.model(state).params["x"] - start.params["x"])


def test_two_steps_of_momentum():
    server = server_opt(optax.sgd(0.5, momentum=0.9))
    state = server.init(MODEL, 5)
    for _ in range(2):
        state = server.update(state, aggregate(MOVE), KEY)
    np.testing.assert_allclose(
        server.model(state).params["x"], np.array([1, 2]) - 0.5 * (1 + 1.9) * np.array([0.5, -1])
    )


def test_the_control_variate_moves_by_the_share_of_clients_heard():
    """c <- c - (n / N) x mean decrease: 2 of 5 heard."""
    server = server_control(optax.sgd(1.0))
    state = server.init(MODEL, 5)
    update = server.send(state)._replace(model=MOVE, control={"x": jnp.array([10.0, -5.0])})
    state = server.update(state, aggregate(update), KEY)
    np.testing.assert_allclose(state.control["x"], [-4.0, 2.0])
    np.testing.assert_allclose(server.model(state).params["x"], [0.5, 3.0])
    np.testing.assert_allclose(server.send(state).control["x"], [-4.0, 2.0])


def test_what_is_held_is_replaced_whole():
    server = server_holds(optax.adam(0.1))
    state = server.init(MODEL, 5)
    assert_trees_close(server.send(state), state, rtol=0)
    new = jax.tree.map(lambda v: v + 1, state)
    after = server.update(state, aggregate(Held(*new)), KEY)
    assert_trees_equal(after, new)
    np.testing.assert_allclose(server.model(after).params["x"], [2.0, 3.0])
