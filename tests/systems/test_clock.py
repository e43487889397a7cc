"""The clock against an event queue: deadlines, over-selection, drop-outs, partial work."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from oracles.clock import Client, play

from fedjax_sim.sampling.deadline import steps_by
from fedjax_sim.systems.clock import (
    Times,
    draw_times,
    expected_times,
    fitting_steps,
    round_end,
)
from fedjax_sim.systems.cost import Load
from fedjax_sim.systems.fleet import Fleet

K = 7


_QUICK_END = quick_jit(round_end, static_argnames=("wanted", "deadline_s", "idle_s"))


def case(rng):
    """Random members: times of the same order, some absent, some that never report."""
    times = Times(rng.exponential(1.0, K), rng.exponential(0.3, K), rng.exponential(1.0, K))
    steps = rng.integers(1, 9, K)
    return times, steps, rng.random(K) < 0.85, rng.random(K) < 0.2


@pytest.mark.parametrize("late", ["absent", "partial"])
@pytest.mark.parametrize("deadline_s", [math.inf, 2.5])
@pytest.mark.parametrize("wanted", [K, 4])
def test_a_round_ends_as_in_the_event_queue(x64, wanted, deadline_s, late):
    @quick_jit
    def ours(times, steps, here, lost):
        done, silent = steps_by(deadline_s, late, times, steps)
        end = round_end(
            times.total(done),
            here,
            silent | lost,
            wanted=wanted,
            deadline_s=deadline_s,
            idle_s=60.0,
        )
        return end, done

    rng = np.random.default_rng(0)
    some_late = False
    for _ in range(200):
        times, steps, here, lost = case(rng)
        clients = {
            i: Client(times.down_s[i], times.step_s[i], times.up_s[i], steps[i], lost[i])
            for i in np.flatnonzero(here)
        }
        want = play(clients, wanted, deadline_s, late == "partial")
        got, done = ours(jax.tree.map(jnp.asarray, times), jnp.asarray(steps), here, lost)
        assert float(got.seconds) == pytest.approx(want.seconds, rel=1e-12)
        assert set(np.flatnonzero(got.arrived)) == want.arrived
        for i in want.arrived:
            assert int(done[i]) == want.steps[i]
        some_late |= bool((here & ~lost & ~np.asarray(got.arrived)).any())
    assert some_late == (wanted < K or deadline_s < math.inf)


def test_a_round_without_members_lets_time_pass():
    nobody = jnp.zeros(K, bool)
    for deadline_s, wanted in [(math.inf, 60.0), (5.0, 5.0)]:
        end = _QUICK_END(jnp.ones(K), nobody, nobody, wanted=K, deadline_s=deadline_s, idle_s=60.0)
        assert float(end.seconds) == wanted == play({}, K, deadline_s).seconds
        assert not np.asarray(end.arrived).any()


def test_reports_of_the_same_moment_count_in_the_order_of_the_cohort():
    everyone, nobody = jnp.ones(4, bool), jnp.zeros(4, bool)
    seconds = jnp.array([2.0, 1.0, 2.0, 2.0])
    end = _QUICK_END(seconds, everyone, nobody, wanted=2, deadline_s=9.0, idle_s=1.0)
    assert float(end.seconds) == 2.0
    np.testing.assert_array_equal(end.arrived, [True, True, False, False])
    clients = {i: Client(0.0, float(s), 0.0, 1) for i, s in enumerate(seconds)}
    assert play(clients, 2, 9.0).arrived == {0, 1}


def fleet_of(n, sigma=0.0):
    ones = jnp.ones(n)
    return Fleet(
        jnp.arange(1, n + 1) * 1e6, 1e5 * ones, sigma * ones, 5e4 * ones, sigma * ones, ones, ones
    )


def test_seconds_of_a_member_by_hand():
    load = Load(4e6, 2e5, 1e5, jnp.array([3, 3, 8]))
    fleet, ids = fleet_of(3), jnp.arange(3, dtype=jnp.int32)
    times = quick_jit(draw_times)(jax.random.key(0), ids, fleet, load)
    # 200 kB at 100 kB/s, steps of 4 MFLOP at 1, 2, 3 MFLOP/s, 100 kB at 50 kB/s.
    np.testing.assert_allclose(times.total(load.steps), [2 + 12 + 2, 2 + 6 + 2, 4 + 32 / 3])
    np.testing.assert_allclose(expected_times(fleet, load).step_s, [4.0, 2.0, 4 / 3])
    np.testing.assert_array_equal(fitting_steps(times, load.steps, 12.5), [2, 3, 6])
    np.testing.assert_array_equal(fitting_steps(times, load.steps, 3.0), [0, 0, 0])


def test_links_depend_on_round_and_client_and_not_on_the_place_in_the_cohort():
    load, fleet = Load(1e6, 2e5, 1e5, jnp.ones(6, jnp.int32)), fleet_of(6, sigma=4e4)
    ids = jnp.array([5, 0, 3], jnp.int32)

    @quick_jit
    def down(key, ids):
        return draw_times(key, ids, jax.tree.map(lambda x: x[ids], fleet), load).down_s

    first, turned = down(jax.random.key(1), ids), down(jax.random.key(1), ids[::-1])
    np.testing.assert_array_equal(first, turned[::-1])
    assert len(np.unique(first)) == 3
    assert (np.asarray(down(jax.random.key(2), ids)) != np.asarray(first)).all()


def test_partial_work_in_single_precision_is_never_late():
    """The floor of a quotient may round up to one step too many."""
    rng = np.random.default_rng(0)
    n, seconds = 100_000, np.float32(7.3)
    whole = rng.integers(1, 500, n)
    down, up = (rng.uniform(0.1, 2.0, n).astype(np.float32) for _ in range(2))
    step = ((seconds - down - up) / whole).astype(np.float32)
    times, full = Times(*map(jnp.asarray, (down, step, up))), jnp.full(n, 1000, jnp.int32)
    fit = fitting_steps(times, full, seconds)
    naive = jnp.floor((seconds - times.down_s - times.up_s) / times.step_s)
    assert (np.asarray(times.total(naive)) > seconds).any()
    assert not (np.asarray(times.total(fit)) > seconds).any()
    assert (whole - np.asarray(fit) <= 1).all()
