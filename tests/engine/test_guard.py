"""The guard of the round loop: a round that is not finite leaves no trace."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Run, assert_trees_close, assert_trees_equal, quadratic_task
from sparing import few

from fedjax_sim.algorithms import fedavg, scaffold
from fedjax_sim.core.contracts import Watch
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine.bind import bind
from fedjax_sim.engine.mesh import make_mesh
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import init_run, make_simulate
from fedjax_sim.sampling.uniform import uniform

N = 3


def data() -> DeviceShards:
    x, y = jnp.ones((N, 1)), jnp.arange(1.0, N + 1)[:, None]
    at = jnp.arange(N, dtype=jnp.int32)
    return DeviceShards(x, y, at, jnp.ones_like(at), longest=1)


def run_of(recipe, *, devices: int = 1) -> Run:
    return Run.of(recipe, quadratic_task(), data(), uniform(2, N), Plan(1, devices))


def losing(at: int) -> optax.GradientTransformation:
    """SGD whose step in round `at` (from 0) is infinite."""

    def update(grads, state, params, *, round, **_):
        del params
        factor = jnp.where(round == at, jnp.inf, 0.1)
        return jax.tree.map(lambda g: -factor * g, grads), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


CASES = [(make, devices) for make in (fedavg, scaffold) for devices in (1, 2)]


@pytest.mark.parametrize(("make", "devices"), few(CASES, (scaffold, 2), several=True))
def test_the_state_is_that_before_the_bad_round(make, devices):
    key, at = jax.random.key(3), 4
    made = run_of(make(losing(at)), devices=devices)
    state, records = made.simulate(key, 9)
    before, _ = made.simulate(key, at)
    assert_trees_equal((state.algorithm, state.rows), (before.algorithm, before.rows))
    assert np.asarray(records["sound"]).tolist() == [True] * at + [False] * (9 - at)
    assert not bool(state.sound) and bool(before.sound)
    assert np.isfinite(np.asarray(made.model(state)["x"])).all()


def test_a_sound_run_is_untouched():
    key = jax.random.key(3)
    made = run_of(fedavg(losing(100)))
    once, _ = made.simulate(key, 6)
    compiled, state = made.compiled(1), made.start(key)
    for _ in range(6):
        state, _ = compiled(key, state, 1)
    assert_trees_equal(once, state)
    assert bool(once.sound)


@pytest.mark.slow
def test_runs_beside_a_lost_one_go_on():
    """Under vmap over rates the lost run stands still and the other does not notice."""
    made = run_of(fedavg(lambda lr: optax.sgd(lr), lr=0.1))
    simulate = make_simulate(made.algorithm, made.sampler, chunk=60)
    key = jax.random.key(0)

    def run(lr):
        return simulate(key, made.start(key, {"lr": lr}), 60, made.data)

    states, records = jax.jit(jax.vmap(run))(jnp.array([0.1, 1e3]))
    alone, _ = jax.jit(run)(0.1)
    assert np.asarray(states.sound).tolist() == [True, False]
    params = np.asarray(jax.vmap(made.algorithm.global_model)(states.algorithm).params["x"])
    assert np.isfinite(params).all()
    np.testing.assert_allclose(params[0], made.model(alone)["x"], rtol=1e-6)
    lost = np.flatnonzero(~np.asarray(records["sound"][1]))
    assert 0 < lost[0] < 59 and (np.diff(lost) == 1).all()


def test_a_watch_sees_the_round_as_it_was_and_its_values_are_recorded():
    def observe(state, moment):
        moved = moment.after.params["x"] - moment.before.params["x"]
        big = {"seen_sum": jnp.sum(moved), "seen_measured": moment.round % 2 == 0}
        return state + 1, big | {"count": state, "members": jnp.sum(moment.cohort.members.present)}

    watch = Watch(lambda model, n: jnp.asarray(10 * n + model.params["x"].size, jnp.int32), observe)
    made, key = run_of(fedavg(optax.sgd(0.1))), jax.random.key(1)
    state = init_run(made.algorithm, made.sampler, key, made.task.init(key), N, watch=watch)
    simulate = jax.jit(make_simulate(made.algorithm, made.sampler, chunk=5, watch=watch))
    end, records = simulate(key, state, 5, made.data)
    plain, _ = made.simulate(key, 5)
    assert_trees_close(end.algorithm, plain.algorithm, rtol=1e-6)
    assert np.asarray(records["count"]).tolist() == [31, 32, 33, 34, 35] and int(end.watch) == 36
    assert np.asarray(records["members"]).tolist() == [2] * 5
    total = float(jnp.sum(made.model(plain)["x"]))
    assert float(np.sum(records["seen_sum"])) == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
def test_a_panel_wraps_the_parts_of_every_round():
    """It is given the round, and what its aggregator adds reaches records or watches."""

    def panel(parts, round_index):
        inner = parts.aggregator

        def finalize(acc):
            aggregate = inner.finalize(acc)
            tree = {"double": jax.tree.map(lambda x: 2 * x, aggregate.update.params)}
            return aggregate._replace(aux={"when": round_index, **tree})

        return parts._replace(aggregator=inner._replace(finalize=finalize))

    def observe(state, moment):
        double = moment.info.trees["double"]["x"]
        moved = moment.after.params["x"] - moment.before.params["x"]
        return state, {"gap": jnp.sum(double + 2 * moved)}

    made, key = run_of(fedavg(optax.sgd(0.1))), jax.random.key(1)
    algorithm = bind(fedavg(optax.sgd(0.1)), made.task, made.plan, make_mesh(1), panel=panel)
    watch = Watch(lambda model, n: (), observe)
    state = init_run(algorithm, made.sampler, key, made.task.init(key), N, watch=watch)
    end, records = jax.jit(make_simulate(algorithm, made.sampler, chunk=4, watch=watch))(
        key, state, 4, made.data
    )
    plain, _ = made.simulate(key, 4)
    assert_trees_close(end.algorithm, plain.algorithm, rtol=1e-6)
    assert np.asarray(records["when"]).tolist() == [0, 1, 2, 3] and "double" not in records
    np.testing.assert_allclose(records["gap"], 0, atol=1e-6)
