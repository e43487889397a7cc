"""(G, B) from readings whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls

from fedjax_sim.core.checks import InputError
from fedjax_sim.diagnostics.dissimilarity import _level, fit, fit_records


def readings(g: float, b: float, noise: float, n: int = 60, seed: int = 0):
    rng = np.random.default_rng(seed)
    square = np.geomspace(10, 1e-3, n)
    client = (g**2 + b**2 * square) * (1 + noise * rng.normal(size=n))
    return square, client


@pytest.mark.parametrize(("g", "b"), [(0.5, 1.5), (0.0, 2.0), (0.3, 1.0), (0.0, 1.0)])
def test_exact_readings_give_their_constants(g: float, b: float) -> None:
    found = fit(*readings(g, b, 0.0))
    assert found is not None
    np.testing.assert_allclose([found.g, found.b], [g, b], atol=1e-6)
    np.testing.assert_allclose(found.g_interval, [g, g], atol=1e-6)
    np.testing.assert_allclose(found.b_interval, [b, b], atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("g", "b"), [(0.5, 1.5), (0.1, 1.0), (0.0, 1.2), (2.0, 1.0)])
def test_it_is_the_nonnegative_least_squares_solution(g: float, b: float, seed: int) -> None:
    x, y = readings(g, b, 0.4, seed=seed)
    found, scale = fit(x, y, resamples=10), _level(y)
    assert found is not None
    want, _ = nnls(np.stack([1 / scale, x / scale], axis=1), (y - x) / scale)
    np.testing.assert_allclose([found.g**2, found.b**2 - 1], want, rtol=1e-6, atol=1e-9)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """95 % intervals, 200 sets of 60 readings; at least 86 % (the bootstrap is a bit narrow)."""
    g, b, hits = 0.5, 1.5, np.zeros(2)
    for seed in range(200):
        found = fit(*readings(g, b, 0.3, seed=seed), resamples=200)
        assert found is not None
        hits += [
            found.g_interval[0] <= g <= found.g_interval[1],
            found.b_interval[0] <= b <= found.b_interval[1],
        ]
    assert (hits >= 172).all(), hits
    assert (hits < 200).all(), hits


def test_records_without_readings_are_passed_over() -> None:
    x, y = readings(0.5, 1.5, 0.0, n=20)
    rows = [{"round": i, "train_loss": 1.0} for i in range(60)]
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        rows[3 * i] |= {"drift_probe_square": a, "drift_probe_client_square": b}
    rows[0]["drift_probe_square"] = None
    found = fit_records(rows)
    assert found is not None and found.readings == 19
    np.testing.assert_allclose([found.g, found.b], [0.5, 1.5], rtol=1e-6)
    assert fit_records(rows[:12]) is None
    assert fit_records([]) is None


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="client_square"):
        fit([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match="level"):
        fit(np.ones(9), np.ones(9), level=1.0)


def test_nothing_but_zeros() -> None:
    found = fit(np.zeros(8), np.zeros(8))
    assert found is not None and (found.g, found.b) == (0, 1)
