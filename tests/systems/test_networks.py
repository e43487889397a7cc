"""Draws: links are truncated normals, luck is uniform and each client's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from scipy import stats

from fedjax_sim.systems.luck import luck, settle
from fedjax_sim.systems.networks import draw_speed

N = 20_000


@pytest.fixture(scope="module")
def drawn():
    """Luck of 20,000 clients in 20 rounds, `[20, 2, N]`."""
    one = quick_jit(jax.vmap(lambda seed: jnp.stack(luck(jax.random.key(seed), jnp.arange(N)))))
    return np.asarray(one(jnp.arange(20)))


def test_luck_is_uniform_over_clients_and_over_rounds(drawn):
    flat = drawn.reshape(40, N)
    worst = min(stats.kstest(row, "uniform").pvalue for row in flat)
    assert worst > 0.01 / 40
    assert stats.kstest(drawn[:, :, :50].ravel(), "uniform").pvalue > 1e-3
    assert flat.min() > 0 and flat.max() < 1


def test_luck_of_other_rounds_clients_and_uses_is_independent(drawn):
    flat = drawn.reshape(40, N)
    apart = np.corrcoef(flat) - np.eye(40)
    assert np.abs(apart).max() * np.sqrt(N) < 4.5  # 780 pairs
    neighbours = [np.corrcoef(row[:-1], row[1:])[0, 1] for row in flat]
    assert np.abs(neighbours).max() * np.sqrt(N) < 4
    cells = np.histogram2d(flat[0], flat[1], 16)[0].ravel()
    assert stats.chisquare(cells).pvalue > 1e-3


def test_luck_is_by_id_whatever_the_cohort():
    key = jax.random.key(5)
    whole = luck(key, jnp.arange(9))[0]
    np.testing.assert_array_equal(luck(key, jnp.array([7, 2]))[0], np.asarray(whole)[[7, 2]])


@pytest.mark.parametrize(("mean", "sigma"), [(6708.0, 6738.5), (4317.6, 1265.0), (665.0, 312.0)])
def test_a_link_is_normal_drawn_again_while_negative(drawn, mean, sigma):
    speeds = quick_jit(draw_speed)(drawn[3, 0], jnp.full(N, mean), jnp.full(N, sigma))
    law = stats.truncnorm(-mean / sigma, np.inf, mean, sigma)
    assert stats.kstest(np.asarray(speeds, float), law.cdf).pvalue > 1e-3
    assert np.asarray(speeds).min() >= 1e-3 * mean


def test_a_link_without_spread_is_its_mean():
    assert float(draw_speed(jnp.ones(1) * 0.3, jnp.ones(1) * 7.0, jnp.zeros(1))[0]) == 7.0


def test_settled_values_are_the_same_values():
    a, b = jnp.array([3, 1, 2]), jnp.array([True, False, True])
    for got, want in zip(settle(a, b), (a, b), strict=True):
        np.testing.assert_array_equal(got, want)
