"""The key law: a client's draws follow from run, round and id, and from nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import cohort_of, quick_jit, shards

from fedjax_sim.aggregation.collect import collect
from fedjax_sim.clients.sgd import local
from fedjax_sim.core import keys
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.cohort import Work, run_cohort
from fedjax_sim.engine.mesh import make_mesh
from fedjax_sim.engine.plan import Plan

SIZES, STEPS, N = [4, 9, 2, 6, 5], 3, 5
RULE = Batches(epochs=None, steps=STEPS, size=1)
RUN = jax.random.key(21)
DATA = shards(np.arange(26, dtype=np.float32), np.zeros(26, np.int32), SIZES)


def noisy_task():
    """Step t's gradient is one-hot at t: in `drawn` a key's normal, in `seen` the example."""

    def loss(key, model, batch):
        params, t = model.params, model.state
        noise = jax.random.normal(key)
        total = noise * params["drawn"][t] + batch.x[0] * params["seen"][t]
        return total, t + 1

    nothing = {"drawn": jnp.zeros(STEPS), "seen": jnp.zeros(STEPS)}
    return Task(lambda key: Model(nothing, jnp.int32(0)), loss, lambda m, x: x, lambda o, b: {})


def runner(lanes=1, devices=1):
    """`(round, cohort) -> {name: [K, STEPS]}`: the draws of every member, step by step."""
    task = noisy_task()
    client = local(optax.sgd(1.0), RULE, weighting="uniform")(task)
    work = Work(client, collect(lambda updates, weights: updates), lambda sent, member: sent)

    def run(round_index, cohort):
        result = run_cohort(
            lambda hyper: work, (), task.init(RUN), (), cohort, DATA,
            key=keys.round_key(RUN, round_index), plan=Plan(lanes, devices),
            mesh=make_mesh(devices),
        )  # fmt: skip
        return result.acc.updates.params

    return quick_jit(run)


@pytest.fixture(scope="module")
def single():
    return runner()


@pytest.fixture(scope="module")
def draws(single):
    """`[rounds, N, STEPS]` of all clients in cohort order 0 .. 4."""
    everyone = cohort_of(range(N))
    rounds = [single(r, everyone) for r in range(3)]
    return {n: np.stack([np.asarray(r[n]) for r in rounds]) for n in ("drawn", "seen")}


def test_draws_are_keyed_as_the_law_says(draws):
    """The step is folded in last; purposes 1 (shuffle) and 2 (loss), written out."""
    for r, i, t in np.ndindex(3, N, STEPS):
        mine = jax.random.fold_in(jax.random.fold_in(RUN, r), i)
        want = jax.random.normal(jax.random.fold_in(jax.random.fold_in(mine, 2), t))
        np.testing.assert_allclose(draws["drawn"][r, i, t], want, rtol=1e-6)


def test_draws_differ_between_rounds_clients_and_steps(draws):
    assert len(np.unique(draws["drawn"])) == 3 * N * STEPS
    orders = draws["seen"]
    assert (orders[0] != orders[1]).any(axis=1).sum() >= 3, "shuffles repeat from round to round"
    starts = np.cumsum([0, *SIZES[:-1]])
    relative = orders[:, [1, 3]] - starts[[1, 3]][None, :, None]
    assert (relative[:, 0] != relative[:, 1]).any(), "two clients share a shuffle"


@pytest.mark.parametrize(("lanes", "devices"), [(3, 1), (2, 2), (1, 8)])
def test_draws_do_not_depend_on_lane_or_device(draws, lanes, devices):
    got = runner(lanes, devices)(1, cohort_of(range(N)))
    for name, values in got.items():
        np.testing.assert_allclose(values, draws[name][1], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("order", [[4, 2, 0, 1, 3], [1, 0, 4, 3, 2]])
def test_draws_do_not_depend_on_the_order_of_the_cohort(single, draws, order):
    got = single(1, cohort_of(order))
    for name, values in got.items():
        np.testing.assert_array_equal(values, draws[name][1][order], err_msg=name)


def test_draws_do_not_depend_on_who_else_is_there(single, draws):
    got = single(2, cohort_of([3, 0, 1, 4, 2], present=[True, False, False, True, False]))
    for name, values in got.items():
        np.testing.assert_array_equal(values[0], draws[name][2][3], err_msg=name)
        np.testing.assert_array_equal(values[3], draws[name][2][4], err_msg=name)
        np.testing.assert_array_equal(values[1], 0, err_msg=name)
