"""Tiers: cut by latency, drawn as asked, within one tier; credits, losses, and time saved."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Info
from fedjax_sim.sampling.select import uniform_online
from fedjax_sim.sampling.tiers import Adaptive, cut, tiers
from fedjax_sim.sampling.timed import System, timed
from fedjax_sim.systems.availability import bernoulli
from fedjax_sim.systems.clock import expected_times
from fedjax_sim.systems.cost import Load
from fedjax_sim.systems.fleet import fleet

N, K, M = 50, 6, 5
LOAD = Load(1e9, 1e5, 1e5, np.full(N, 10))
FLEET = fleet(N, seed=2)
LATENCY = expected_times(FLEET, LOAD).total(LOAD.steps)


def play_rounds(select, rounds, losses=None, system=None):
    """Told scalars, members and state of each round; each tier's loss is `losses[tier]`."""
    sampler = timed(select, system or System(FLEET, LOAD))
    losses = jnp.ones(M) if losses is None else jnp.asarray(losses)

    def one(state, i):
        state, cohort = sampler.sample(jax.random.fold_in(jax.random.key(0), i), state, i)
        count = jnp.where(cohort.members.present, 5.0, 0.0)
        loss = losses[state.select.current] if select.group is not None else 0.0
        news = Info({}, {"loss_sum": loss * count, "loss_count": count}, {})
        state = sampler.observe(state, cohort, news)
        return state, (sampler.tell(state), cohort.members, state.select)

    scan = quick_jit(lambda s: jax.lax.scan(one, s, jnp.arange(rounds, dtype=jnp.int32)))
    return jax.tree.map(np.asarray, scan(sampler.init(N))[1])


@pytest.mark.parametrize(("n", "count"), [(50, 5), (7, 3), (5, 5), (9, 1), (101, 4)])
def test_tiers_are_equal_slices_of_the_ranking(n, count):
    latency = np.random.default_rng(0).exponential(size=n)
    tier = np.asarray(cut(jnp.asarray(latency), count))
    order = np.argsort(latency)
    assert (np.diff(tier[order]) >= 0).all()
    sizes = np.bincount(tier, minlength=count)
    assert sizes.max() - sizes.min() <= 1 and sizes.sum() == n


def test_a_cohort_is_of_one_tier_and_tiers_are_drawn_as_asked():
    odds = (0.5, 0.25, 0.0, 0.15, 0.1)
    rounds = 2000
    told, members, _ = play_rounds(tiers(K, N, count=M, probabilities=odds), rounds)
    tier_of = np.asarray(cut(jnp.asarray(LATENCY), M))
    np.testing.assert_array_equal(tier_of[members.id], np.repeat(told["tier"][:, None], K, 1))
    assert (np.sort(members.id, 1)[:, 1:] > np.sort(members.id, 1)[:, :-1]).all()
    share = np.bincount(told["tier"], minlength=M) / rounds
    spread = 4 * np.sqrt(np.multiply(odds, np.subtract(1, odds)) / rounds)
    assert (np.abs(share - odds) <= spread).all() and share[2] == 0
    # Within a tier all ten are equally likely.
    counts = np.bincount(members.id[told["tier"] == 0].ravel(), minlength=N)[tier_of == 0]
    wanted = (told["tier"] == 0).sum() * K / 10
    assert np.abs(counts - wanted).max() < 4 * np.sqrt(wanted * 0.4)


def test_tiers_save_time():
    """The fastest tier alone takes what its slowest member needs; all tiers less than no tiers."""
    steady = System(FLEET._replace(down_sigma=np.zeros(N), up_sigma=np.zeros(N)), LOAD)
    plain, _, _ = play_rounds(uniform_online(K, N), 300, system=steady)
    mixed, _, state = play_rounds(tiers(K, N, count=M), 300, system=steady)
    assert mixed["virtual_time_s"][-1] < 0.7 * plain["virtual_time_s"][-1]
    slowest = np.sort(LATENCY)[9::10][state.current]
    assert (mixed["round_seconds"] <= slowest * 1.001).all()
    assert (mixed["round_seconds"] >= np.sort(LATENCY)[5::10][state.current] * 0.999).all()


def test_default_credits_give_tiers_the_same_virtual_time():
    rounds = 400
    _, _, state = play_rounds(tiers(K, N, count=M, adaptive=Adaptive(rounds, 10**6)), rounds)
    tier_of = np.asarray(cut(jnp.asarray(LATENCY), M))
    slowest = np.array([LATENCY[tier_of == t].max() for t in range(M)])
    wanted = 2 * rounds / slowest / (1 / slowest).sum()
    first = state.credits[0].copy()
    first[state.current[0]] += 1
    np.testing.assert_array_equal(first, np.ceil(wanted - 1e-3))
    spent = np.bincount(state.current, minlength=M)
    np.testing.assert_array_equal(state.credits[-1], first - spent)
    # Equal losses: half of each tier's credits, to within chance.
    assert (np.abs(spent - wanted / 2) < 4 * np.sqrt(wanted / 2) + 1).all()


def test_spent_tiers_are_not_chosen_until_all_are_spent():
    credits = (5, 0, 3, 0, 2)
    told, _, _ = play_rounds(tiers(K, N, count=M, adaptive=Adaptive(0, 5, credits)), 40)
    np.testing.assert_array_equal(np.bincount(told["tier"][:10], minlength=M), credits)
    assert len(np.unique(told["tier"][10:])) == M


def test_adaptive_tiers_turn_to_where_the_loss_is_high():
    """Losses that do not fall: after two looks the odds are the losses."""
    losses = np.array([1.0, 1.0, 1.0, 1.0, 6.0])
    select = tiers(K, N, count=M, adaptive=Adaptive(0, 20, (10**6,) * M))
    told, _, state = play_rounds(select, 1500, losses)
    np.testing.assert_allclose(state.odds[19], 0.2)
    np.testing.assert_allclose(state.odds[-1], losses / 10, rtol=1e-5)
    share = np.bincount(told["tier"][60:], minlength=M) / 1440
    assert np.abs(share - losses / 10).max() < 4 * np.sqrt(0.25 / 1440)


def test_latency_is_learned_and_tiers_are_cut_anew():
    """Device 0 is taken for the fastest and is the slowest: it ends in the last tier."""
    believed = expected_times(FLEET, LOAD).total(LOAD.steps)
    victim = int(np.argmin(believed))
    select = tiers(10, N, count=M, retier_every=5, memory=0.0)
    really = FLEET._replace(flops_per_s=np.where(np.arange(N) == victim, 1e8, FLEET.flops_per_s))

    def deceived(fleet, load):
        true = jax.tree.map(lambda v: jnp.asarray(v, float), FLEET)
        del fleet
        return select.init(true, load)

    system = System(really, LOAD)
    _, members, state = play_rounds(select._replace(init=deceived), 60, system=system)
    chosen = (members.id == victim).any(1)
    assert state.tier[0][victim] == 0 and chosen.any()
    assert state.tier[-1][victim] == M - 1


def test_a_tier_of_which_few_are_online_leaves_rows_absent():
    few = FLEET._replace(online=np.full(N, 0.3))
    told, members, _ = play_rounds(tiers(K, N, count=M), 50, system=System(few, LOAD, bernoulli()))
    assert 0 < members.present.mean() < 0.7
    tier_of = np.asarray(cut(jnp.asarray(LATENCY), M))
    where = np.repeat(told["tier"][:, None], K, 1)
    assert (tier_of[members.id] == where)[members.present].all()
    assert (np.sort(members.id, 1)[:, 1:] > np.sort(members.id, 1)[:, :-1]).all()


build = functools.partial(tiers, K, N, count=M)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiers(11, N, count=M), r"cohort = 11: must be at most 10, the clients of one"),
        (lambda: tiers(K, N, count=0), r"tiers = 0"),
        (lambda: build(probabilities=(1, 2)), r"tier_probabilities = .*5 numbers"),
        (lambda: build(probabilities=(-1, 1, 1, 1, 1)), r"tier_probabilities"),
        (lambda: build(probabilities=(0,) * 5), r"tier_probabilities = .*positive"),
        (lambda: build(memory=1.0), r"memory = 1"),
        (lambda: build(adaptive=Adaptive(9, 0)), r"tier_interval = 0"),
        (
            lambda: timed(build(adaptive=Adaptive(9, 1, (1, 2))), System(FLEET, LOAD)).init(N),
            r"tier_credits = .*5 whole numbers",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_adaptive_tiers_need_losses():
    sampler = timed(build(adaptive=Adaptive(9)), System(FLEET, LOAD))

    def one(state):
        state, cohort = sampler.sample(jax.random.key(0), state, jnp.int32(0))
        return sampler.observe(state, cohort, Info({}, {}, {}))

    with pytest.raises(InputError, match=r"systems\.select = adaptive_tiers"):
        jax.eval_shape(one, sampler.init(N))
