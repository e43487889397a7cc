"""Samplers on the clock: whole runs of rounds against the event queue, and the laws of a cohort."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from oracles.clock import Client, play

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Info
from fedjax_sim.sampling.deadline import over_selected
from fedjax_sim.sampling.equal_time import equal_time
from fedjax_sim.sampling.round_log import ABSENT, DROPPED, KEPT_ROUNDS, LATE
from fedjax_sim.sampling.select import uniform_online, wrapped
from fedjax_sim.sampling.timed import System, timed
from fedjax_sim.sampling.uniform import uniform
from fedjax_sim.systems.availability import bernoulli, diurnal, markov
from fedjax_sim.systems.clock import expected_times
from fedjax_sim.systems.cost import Load, steps_of
from fedjax_sim.systems.fleet import fleet

N, K, ROUNDS = 40, 8, 6
LOAD = Load(1e8, 2e6, 1e6, np.arange(N) % 7 + 1)
FLEET = fleet(N, seed=4, online=0.6)
NO_NEWS = Info({}, {}, {})


def play_rounds(sampler, rounds=ROUNDS, n=N, news=NO_NEWS):
    """State after each round, and its cohort, leaves `[R, ...]`."""

    def one(state, i):
        key = jax.random.fold_in(jax.random.key(3), i)
        state, cohort = sampler.sample(key, state, i)
        state = sampler.observe(state, cohort, news)
        return state, (state, cohort.members, sampler.tell(state))

    scan = quick_jit(lambda s: jax.lax.scan(one, s, jnp.arange(rounds, dtype=jnp.int32)))
    return jax.tree.map(np.asarray, scan(sampler.init(n))[1])


ARMS = {
    "synchronous": {},
    "partial": {"deadline_s": 2.5, "late": "partial"},
    "over-selection": {"wanted": 5},
    "all of it": {"deadline_s": 2.0, "late": "partial", "wanted": 5, "dropout": 0.3},
}


@pytest.mark.parametrize("arm", ARMS)
def test_virtual_time_is_that_of_the_event_queue(x64, arm):
    """The log's parts go into the queue; time, reports and work come out of it."""
    given = dict(ARMS[arm])
    system = System(FLEET, LOAD, bernoulli(), given.pop("dropout", 0.0))
    sampler = timed(uniform_online(K, N), system, **given)
    states, members, told = play_rounds(sampler)
    wanted, deadline_s = given.get("wanted", K), given.get("deadline_s", math.inf)
    time, lost = 0.0, 0
    for r in range(ROUNDS):
        rows = jax.tree.map(lambda v, r=r: v[r, r], states.log.rows)
        full = LOAD.steps[rows.id]
        done = steps_of(full, members.work[r])
        step_s = LOAD.flops_per_step / FLEET.flops_per_s[rows.id]
        np.testing.assert_allclose(rows.compute_s, done * step_s, rtol=1e-12)
        clients = {
            int(i): Client(
                rows.down_s[i], step_s[i], rows.up_s[i], full[i], rows.status[i] == DROPPED
            )
            for i in np.flatnonzero(rows.status != ABSENT)
        }
        end = play(clients, wanted, deadline_s, given.get("late") == "partial")
        time += end.seconds
        assert told["round_seconds"][r] == pytest.approx(end.seconds, rel=1e-12)
        assert told["virtual_time_s"][r] == pytest.approx(time, rel=1e-12)
        assert set(np.flatnonzero(members.present[r])) == end.arrived
        assert {i: int(done[i]) for i in end.arrived} == {i: end.steps[i] for i in end.arrived}
        assert told["clients_late"][r] == (rows.status == LATE).sum()
        assert told["clients_dropped"][r] == (rows.status == DROPPED).sum()
        lost += ((rows.status == LATE) | (rows.status == DROPPED)).sum()
    assert (lost > 0) == (arm != "synchronous")


def test_without_a_deadline_the_cohort_is_the_plain_samplers():
    """All online, nobody lost: the clock changes nothing but what it tells."""
    _, members, _ = play_rounds(timed(uniform_online(K, N), System(FLEET, LOAD)))
    _, same, _ = play_rounds(timed(wrapped(uniform(K, N), N), System(FLEET, LOAD)))
    plain, key = quick_jit(uniform(K, N).sample), jax.random.key(3)
    for r in range(ROUNDS):
        wanted = plain(jax.random.fold_in(key, r), (), jnp.int32(r))[1].members
        for got, also, want in zip(members, same, wanted, strict=True):
            np.testing.assert_array_equal(got[r], want)
            np.testing.assert_array_equal(also[r], want)


@pytest.mark.parametrize("rule", [bernoulli, diurnal, functools.partial(markov, 10.0)])
def test_members_are_distinct_and_online(rule):
    """A third is online of few: rows without anybody are absent, ids distinct all the same."""
    few = FLEET._replace(online=np.full(N, 0.2))
    state, members, told = play_rounds(
        timed(uniform_online(20, N), System(few, LOAD, rule())), rounds=12
    )
    assert (np.sort(members.id, 1)[:, 1:] != np.sort(members.id, 1)[:, :-1]).all()
    present = members.present.sum(1)
    assert present.min() < 12 and present.max() < 20
    assert (np.diff(told["virtual_time_s"]) > 0).all()
    if rule is not bernoulli and rule is not diurnal:
        online = state.available
        assert all(online[r][members.id[r][members.present[r]]].all() for r in range(12))


def test_nobody_online_lets_time_pass():
    nobody = FLEET._replace(online=np.zeros(N))
    _, members, told = play_rounds(timed(uniform_online(4, N), System(nobody, LOAD, bernoulli())))
    assert not members.present.any()
    np.testing.assert_allclose(told["virtual_time_s"], 60.0 * np.arange(1, ROUNDS + 1))


def test_a_wrapped_sampler_keeps_its_members_and_loses_those_offline():
    on = FLEET._replace(online=np.where(np.arange(N) < 20, 1.0, 0.0))
    sampler = timed(wrapped(uniform(K, N), N), System(on, LOAD, bernoulli()))
    _, members, _ = play_rounds(sampler)
    np.testing.assert_array_equal(members.present, members.id < 20)


def test_the_share_that_drops_out():
    system = System(FLEET, LOAD, dropout=0.25)
    _, members, told = play_rounds(timed(uniform_online(N, N), system), rounds=50)
    gone = ~members.present
    assert abs(gone.mean() - 0.25) < 4 * np.sqrt(0.1875 / gone.size)
    np.testing.assert_array_equal(told["clients_dropped"], gone.sum(1))


def test_the_clock_loses_no_seconds_in_a_long_run():
    """A million rounds of a third of a second, in float32."""
    from fedjax_sim.sampling.timed import _add

    step = jnp.float32(1 / 3)
    run = quick_jit(
        lambda: jax.lax.fori_loop(
            0, 10**6, lambda _, c: _add(*c, step), (jnp.zeros(()), jnp.zeros(()))
        )
    )
    assert float(run()[0]) == pytest.approx(float(step) * 10**6, rel=2e-7)


def test_equal_time_gives_all_the_same_seconds():
    steady = FLEET._replace(down_sigma=np.zeros(N), up_sigma=np.zeros(N))
    load = LOAD._replace(steps=np.full(N, 50), flops_per_step=1e8)
    alone = expected_times(steady, load).total(load.steps)
    target = np.quantile(alone, 0.5)
    work = equal_time(steady, load, share=0.5)
    sampler = timed(uniform_online(N, N), System(steady, load), work=work)
    state, members, _ = play_rounds(sampler, rounds=1)
    ids, seconds = members.id[0], state.seconds[0]
    step_s = load.flops_per_step / steady.flops_per_s[ids]
    full = members.work[0] == 1
    np.testing.assert_array_equal(full, alone[ids] <= target * (1 + 1e-5))
    one = steps_of(jnp.full(N, 50), jnp.asarray(members.work[0])) == 1
    slow = ~full & ~np.asarray(one)
    assert slow.sum() > 10 and full.sum() == N // 2
    assert (seconds[slow] <= target * 1.001).all()
    assert (seconds[slow] > target - step_s[slow] * 1.001).all()
    assert members.work[0][slow].min() < 0.5


def test_how_many_are_over_selected():
    got = [over_selected(k, r) for k, r in [(10, 0.0), (10, 0.3), (10, 0.1), (3, 0.5), (7, 1.0)]]
    assert got == [10, 13, 11, 5, 14]


def test_the_log_holds_the_last_rounds():
    state, members, told = play_rounds(timed(uniform_online(K, N), System(FLEET, LOAD)), rounds=9)
    log = jax.tree.map(lambda v: v[-1], state.log)
    np.testing.assert_array_equal(np.sort(log.round), np.arange(9 - KEPT_ROUNDS, 9))
    for i, r in enumerate(log.round):
        np.testing.assert_array_equal(log.rows.id[i], members.id[r])
        assert log.seconds[i] == told["round_seconds"][r]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: timed(uniform_online(K, N), System(FLEET, LOAD), late="never"), "late = never"),
        (lambda: timed(uniform_online(K, N), System(FLEET, LOAD), deadline_s=0), "deadline_s = 0"),
        (lambda: timed(uniform_online(K, N), System(FLEET, LOAD), wanted=9), "wanted = 9"),
        (lambda: timed(uniform_online(K, N), System(FLEET, LOAD, dropout=2.0)), "dropout = 2"),
        (lambda: timed(uniform_online(K, N), System(FLEET, LOAD)).init(N + 1), "fleet = 40"),
        (lambda: uniform_online(N + 1, N), "cohort = 41"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(InputError, match=message):
        build()
