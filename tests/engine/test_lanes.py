"""The lane loop and the dealing: every step done once, in order, with little waiting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import cohort_of, quick_jit, shards
from hypothesis import given
from hypothesis import strategies as st

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.core.contracts import ClientUpdate
from fedjax_sim.core.types import Report
from fedjax_sim.engine.cohort import Work, run_cohort
from fedjax_sim.engine.mesh import deal, make_mesh
from fedjax_sim.engine.plan import Plan

KEY = jax.random.key(0)


def counting():
    """A client whose steps are its number of examples; it writes down the t's it is given."""

    def start(ctx, received, row, data):
        return jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), jnp.ones((), bool)

    def step(ctx, t, work, received, data):
        done, _, in_order = work
        return done + 1, t, in_order & (t == done)

    def finish(ctx, work, received, row, data):
        done, last, in_order = work
        aux = {"done": done, "last": last, "in_order": in_order, "id": ctx.member.id}
        return Report({"id": ctx.member.id.astype(float)}, jnp.ones(()), jnp.int32(0), aux), row + 1

    return ClientUpdate(lambda key, model: (), lambda ctx, data: data.size, start, step, finish)


def runner(lanes, devices=1, client=counting):
    """`(cohort, data) -> CohortResult`, jitted."""
    work = Work(client(), mean(), lambda sent, member: sent)

    def run(cohort, data):
        rows = jnp.zeros(cohort.members.id.shape[0], jnp.int32)
        return run_cohort(
            lambda hyper: work, (), (), rows, cohort, data,
            key=KEY, plan=Plan(lanes, devices), mesh=make_mesh(devices),
        )  # fmt: skip

    return quick_jit(run)


def dummy(sizes):
    """Windows without content."""
    return shards(np.zeros((1, 1), np.float32), np.zeros(1, np.int32), sizes)


def lower_bound(steps, slots):
    """Lane steps of a perfect packing: max(longest, total / slots) on each slot."""
    return max(steps.max(), -(-steps.sum() // slots)) * slots


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("lanes", "devices"), [(8, 1), (16, 1), (8, 2)])
def test_heavy_tailed_cohorts_waste_at_most_a_tenth(lanes, devices, seed):
    """500 log-normal clients (mu 4, sigma 1.5, clipped to [10, 5000], B = 10)."""
    sizes = np.clip(np.random.default_rng(seed).lognormal(4, 1.5, 500), 10, 5000)
    steps = np.ceil(sizes / 10).astype(int)
    result = runner(lanes, devices)(cohort_of(np.arange(500)), dummy(steps))
    bound = lower_bound(steps, lanes * devices)
    assert result.bound == bound
    assert steps.sum() <= result.executed <= 1.1 * bound, f"seed {seed}"
    np.testing.assert_array_equal(result.aux["done"], steps)


RUNNERS = {plan: runner(*plan) for plan in [(1, 1), (3, 1), (16, 1), (2, 2), (3, 8)]}
CLIENTS = 9
clients = st.lists(st.integers(0, 6), min_size=CLIENTS, max_size=CLIENTS)
here = st.lists(st.booleans(), min_size=CLIENTS, max_size=CLIENTS)


@pytest.mark.parametrize("plan", RUNNERS)
@given(steps=clients, present=here, order=st.permutations(range(CLIENTS)))
def test_every_present_client_does_its_steps_once_and_in_order(plan, steps, present, order):
    """Clients of zero steps end at once; absent ones neither step, report nor touch a row."""
    data = dummy(np.maximum(steps, 0))
    data = type(data)(data.x, data.y, data.offsets, data.sizes, 6)
    result = RUNNERS[plan](cohort_of(order, present=present), data)
    want = np.where(present, np.take(steps, order), 0)
    np.testing.assert_array_equal(result.steps, want)
    np.testing.assert_array_equal(result.aux["done"], want)
    np.testing.assert_array_equal(result.aux["in_order"], present)
    np.testing.assert_array_equal(result.aux["last"], np.maximum(want - 1, 0))
    np.testing.assert_array_equal(result.aux["id"], np.where(present, order, 0))
    np.testing.assert_array_equal(result.rows, np.asarray(present, int))
    aggregate = mean().finalize(result.acc)
    assert aggregate.n_present == aggregate.weight == sum(present)
    total = aggregate.update["id"] * aggregate.weight
    np.testing.assert_allclose(total, np.sum(np.asarray(order)[present]), rtol=1e-6)
    lanes = min(plan[0], -(-CLIENTS // plan[1]))
    assert result.bound == lower_bound(want, lanes * plan[1])
    assert result.executed >= want.sum()
    assert result.executed <= lanes * plan[1] * (want.max() + want.sum())


def test_deal_is_a_snake():
    np.testing.assert_array_equal(deal(jnp.arange(8), 2), [0, 3, 4, 7, 1, 2, 5, 6])
    np.testing.assert_array_equal(deal(jnp.arange(5), 3), [0, 5, 1, 4, 2, 3])


@pytest.mark.parametrize("k", [1, 2, 5, 8, 17, 40])
@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_deal_shares_equally_keeps_order_and_balances(k, devices):
    rng = np.random.default_rng(k)
    order = rng.permutation(k)
    table = np.asarray(deal(jnp.asarray(order, jnp.int32), devices)).reshape(devices, -1)
    assert table.shape[1] == -(-k // devices)
    np.testing.assert_array_equal(np.sort(table[table < k]), np.arange(k))
    rank = np.append(np.argsort(order), k)  # place in the queue; fillers last
    assert (np.diff(rank[table], axis=1) >= 0).all()
    steps = np.append(np.empty(k), 0)
    steps[order] = -np.sort(-rng.lognormal(3, 1.5, k))
    loads = steps[table].sum(1)
    assert loads.max() - loads.min() <= steps.max() + 1e-9
