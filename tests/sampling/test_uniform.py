"""Uniform cohorts: distinct, equally likely, cheap at a million; stragglers as asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit

from fedjax_sim.core.checks import InputError
from fedjax_sim.sampling.uniform import uniform, with_stragglers


def draw(sampler, n, seeds):
    state = sampler.init(n)

    def one(seed):
        return sampler.sample(jax.random.key(seed), state, jnp.int32(0))[1].members

    return quick_jit(jax.vmap(one))(jnp.arange(seeds))


@pytest.mark.parametrize(("cohort", "n"), [(1, 1), (1, 7), (3, 7), (7, 7), (10, 100), (63, 64)])
def test_ids_are_distinct_members_of_the_population(cohort, n):
    ids = np.asarray(draw(uniform(cohort, n), n, 200).id)
    assert ids.min() >= 0
    assert ids.max() < n
    assert (np.sort(ids)[:, 1:] != np.sort(ids)[:, :-1]).all()


def test_every_client_is_equally_likely():
    n, cohort, seeds = 12, 3, 20_000
    ids = np.asarray(draw(uniform(cohort, n), n, seeds).id)
    counts, expected = np.bincount(ids.ravel(), minlength=n), seeds * cohort / n
    variance = expected * (1 - cohort / n)
    chi = ((counts - expected) ** 2).sum() / variance * (n - 1) / n
    assert chi < 31.3  # the 99.9 % point of chi-square with 11 degrees of freedom


def test_every_pair_is_equally_likely():
    n, seeds = 6, 30_000
    ids = np.sort(np.asarray(draw(uniform(2, n), n, seeds).id), axis=1)
    counts = np.bincount(ids[:, 0] * n + ids[:, 1], minlength=n * n)
    pairs = counts[[a * n + b for a in range(n) for b in range(a + 1, n)]]
    chi = ((pairs - seeds / 15) ** 2).sum() / (seeds / 15)
    assert chi < 36.1  # 99.9 %, 14 degrees of freedom


def test_a_cohort_of_a_million():
    n, cohort = 1_000_000, 10_000
    ids = np.sort(np.asarray(draw(uniform(cohort, n), n, 1).id)[0])
    assert (np.diff(ids) > 0).all()
    # Kolmogorov-Smirnov against the uniform law, 99.9 %.
    steps = np.arange(1, cohort + 1) / cohort
    assert np.abs(ids / n - steps).max() < 1.95 / np.sqrt(cohort)


def test_a_cohort_larger_than_the_population_is_refused():
    with pytest.raises(InputError, match=r"cohort = 11: must be at most the population: 10"):
        uniform(11, 10)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.9, 1.0])
def test_the_share_of_stragglers(fraction):
    members = draw(with_stragglers(uniform(10, 50), fraction), 50, 2000)
    slow = np.asarray(members.work) < 1
    spread = np.sqrt(fraction * (1 - fraction) / slow.size)
    assert abs(slow.mean() - fraction) <= 4 * spread + 1e-4
    assert np.asarray(members.present).all()
    assert (np.asarray(members.work) > 0).all()


def test_dropped_stragglers_are_absent_and_the_others_work_fully():
    members = draw(with_stragglers(uniform(10, 50), 0.3, drop=True), 50, 2000)
    absent = ~np.asarray(members.present)
    assert abs(absent.mean() - 0.3) < 4 * np.sqrt(0.21 / absent.size)
    assert (np.asarray(members.work) == 1).all()


def test_a_bad_fraction_is_refused():
    with pytest.raises(InputError, match=r"stragglers = 1\.5: .*at most 1"):
        with_stragglers(uniform(2, 3), 1.5)
