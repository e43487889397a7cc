"""Networks of comparisons against NumPy's sort; the 0-1 principle makes the proof exact."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.aggregation.network import comparators, in_order
from fedjax_sim.aggregation.robust import coordinate_median


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 7, 10, 11])
def test_every_input_of_zeros_and_ones_is_sorted(k):
    """A network that sorts these sorts everything (Knuth 5.3.4, theorem Z)."""
    cases = np.array(list(itertools.product((0, 1), repeat=k)), np.int8).T
    for i, j in comparators(k):
        assert 0 <= i < j < k
        cases[i], cases[j] = np.minimum(cases[i], cases[j]), np.maximum(cases[i], cases[j])
    assert (np.diff(cases, axis=0) >= 0).all()


def test_rows_come_back_in_order():
    x = np.random.default_rng(0).normal(size=(10, 3, 5)).astype(np.float32)
    x[3, 0] = np.inf
    np.testing.assert_array_equal(np.stack(in_order(list(jnp.asarray(x)))), np.sort(x, axis=0))


@pytest.mark.parametrize("k", [1, 2, 9, 32, 33, 40])
def test_the_median_is_numpys_by_network_or_sort(k):
    """Absent clients in any place, their rows NaN; one client is lost."""
    rng = np.random.default_rng(k)
    x = rng.normal(size=(k, 7)).astype(np.float32)
    weights = (rng.random(k) < 0.7).astype(np.float32)
    weights[0] = 1.0
    x[weights == 0] = np.nan
    found = coordinate_median()({"x": jnp.asarray(x)}, jnp.asarray(weights))["x"]
    np.testing.assert_allclose(found, np.median(x[weights > 0], axis=0), rtol=1e-6)
    if weights.sum() > 3:
        at = np.flatnonzero(weights)[1]
        x[at] = np.nan
        found = coordinate_median()({"x": jnp.asarray(x)}, jnp.asarray(weights))["x"]
        lost = np.where(np.isnan(x), np.inf, x)[weights > 0]
        np.testing.assert_allclose(found, np.median(lost, axis=0), rtol=1e-6)


def test_nobody_there_changes_nothing():
    found = coordinate_median()({"x": jnp.full((3, 2), jnp.nan)}, jnp.zeros(3))["x"]
    np.testing.assert_array_equal(found, np.zeros(2))
