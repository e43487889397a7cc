"""What shard_map gets wrong by default: summed gradients, and collectives inside the loop."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import cohort_of, quadratic_task, quick_jit, shards, softmax_data, softmax_task

from fedjax_sim.aggregation.collect import collect
from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.sgd import gradient, local
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.cohort import Work, run_cohort
from fedjax_sim.engine.mesh import make_mesh, map_devices, merge_over, place
from fedjax_sim.engine.plan import Plan

KEY = jax.random.key(0)
COLLECTIVES = ("psum", "all_gather", "all_reduce", "all_to_all", "ppermute", "reduce_scatter")


def cohort_runner(client, model, lanes, devices):
    """`(cohort, data) -> CohortResult` that keeps every report's update apart."""
    work = Work(client, collect(lambda updates, weights: updates), lambda sent, member: sent)

    def run(cohort, data):
        return run_cohort(
            lambda hyper: work, (), model, (), cohort, data,
            key=KEY, plan=Plan(lanes, devices), mesh=make_mesh(devices),
        )  # fmt: skip

    return run


@pytest.mark.parametrize(("lanes", "devices"), [(1, 1), (1, 2), (2, 2), (1, 8)])
def test_gradients_of_clients_are_their_own_on_any_device(lanes, devices):
    """Two clients of gradient -2 and -6, of 1 and 250 examples: one batch against three."""
    sizes = [1, 250]
    data = shards(np.repeat([2.0, 6.0], sizes)[:, None], np.ones((251, 1)), sizes)
    client = gradient()(quadratic_task())
    run = quick_jit(cohort_runner(client, Model({"x": jnp.zeros(1)}), lanes, devices))
    result = run(cohort_of([0, 1]), data)
    np.testing.assert_allclose(result.acc.updates.params["x"][:, 0], [-2, -6], rtol=1e-6)
    np.testing.assert_array_equal(result.steps, [1, 3])


def loops(jaxpr, inside=False):
    """`(primitive name, inside a loop)` of every equation, nested jaxprs included."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        yield name, inside
        for value in equation.params.values():
            for part in value if isinstance(value, (tuple, list)) else (value,):
                part = getattr(part, "jaxpr", part)
                if hasattr(part, "eqns"):
                    yield from loops(part, inside or name in ("while", "scan"))


def is_collective(name):
    return name.startswith(COLLECTIVES)


def test_no_collective_inside_the_lane_loop():
    task = softmax_task()
    client = local(optax.sgd(0.1), Batches(size=4))(task)
    run = cohort_runner(client, task.init(KEY), 2, 2)
    jaxpr = jax.make_jaxpr(run)(cohort_of([0, 1, 2]), softmax_data([3, 9, 5])).jaxpr
    found = list(loops(jaxpr))
    assert ("shard_map", False) in found
    assert ("while", False) in found
    assert any(is_collective(name) for name, _ in found), "the accumulators are never merged"
    assert not [name for name, inside in found if inside and is_collective(name)]


def test_devices_meet_once_a_round():
    """The compiler cuts nothing else up: one sum, of one vector, for a small model."""
    task = softmax_task()
    client = local(optax.sgd(0.1), Batches(size=4))(task)
    work = Work(client, mean(), lambda sent, member: sent)

    def run(cohort, data):
        result = run_cohort(
            lambda hyper: work, (), task.init(KEY), (), cohort, data,
            key=KEY, plan=Plan(2, 2), mesh=make_mesh(2),
        )  # fmt: skip
        return result.acc.total, result.aux, result.executed

    given = place((cohort_of([0, 1, 2]), softmax_data([3, 9, 5])), make_mesh(2))
    text = quick_jit(run).lower(*given).compile().as_text()
    met = re.findall(r" (all-reduce|all-gather|collective-permute|all-to-all)\(([^)]*)\)", text)
    assert [name for name, _ in met] == ["all-reduce"]
    assert len(met[0][1].split(",")) == 1


def test_the_walk_sees_a_collective_inside_a_loop():
    """The control: a loop that does sum over devices is caught."""
    mesh = make_mesh(2)

    def body(shared, mine):
        total = jax.lax.fori_loop(0, shared, lambda i, x: x + merge_over(mesh, mine), mine)
        return merge_over(mesh, total), mine

    jaxpr = jax.make_jaxpr(map_devices(body, mesh))(jnp.int32(3), jnp.arange(2.0)).jaxpr
    assert any(inside and is_collective(name) for name, inside in loops(jaxpr))


def test_own_merges_are_applied_in_device_order():
    """`merge_over` with a merge that does not commute: 3 devices hold 2, 3 and 5."""
    mesh = make_mesh(3)

    def body(shared, mine):
        return merge_over(mesh, mine[0], lambda a, b: 10 * a + b), mine

    total, _ = jax.jit(map_devices(body, mesh))((), jnp.array([2, 3, 5]))
    assert total == 235


@pytest.mark.parametrize("devices", [0, 9])
def test_a_mesh_larger_than_the_machine_is_refused(devices):
    with pytest.raises(InputError, match=rf"plan.devices = {devices}: must lie in 1 .. 8"):
        make_mesh(devices)
