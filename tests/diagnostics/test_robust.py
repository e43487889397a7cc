"""Robust statistics against closed forms, and how often noise fools them."""

from __future__ import annotations

import numpy as np
import pytest

from fedjax_sim.diagnostics import robust


def test_a_line_is_found_exactly_and_outliers_do_not_move_it() -> None:
    t = np.arange(20.0)
    line = robust.trend(t, 3 - 0.5 * t)
    np.testing.assert_allclose([line.slope, line.low, line.high], -0.5)
    np.testing.assert_allclose(line.end, 3 - 0.5 * 19)
    y = 3 - 0.5 * t
    y[[2, 9, 15]] += 1e6
    np.testing.assert_allclose(robust.trend(t, y).slope, -0.5)


def test_too_few_points_have_no_trend() -> None:
    assert robust.trend(np.arange(2.0), np.arange(2.0))[:3] == (0.0, -np.inf, np.inf)


def wrong(persistence: float, trials: int = 300, m: int = 40) -> float:
    """How often the interval of a trend in AR(1) noise leaves out the true slope, 0."""
    rng, misses = np.random.default_rng(0), 0
    for _ in range(trials):
        e = rng.normal(size=m)
        y = np.zeros(m)
        for i in range(m):
            y[i] = persistence * y[i - 1] + e[i] if i else e[i] / (1 - persistence**2) ** 0.5
        line = robust.trend(np.arange(m), y)
        misses += not line.low <= 0 <= line.high
    return misses / trials


def test_the_interval_covers_as_often_as_it_says() -> None:
    # 99 % nominal; binomial error of 300 trials is 0.6 %.
    assert wrong(0.0) <= 0.03
    # An interval for independent points would leave the truth out in about 36 % here.
    assert wrong(0.8) <= 0.16


@pytest.mark.parametrize("period", [3, 4, 5, 7, 12, 17.5])
def test_a_wave_has_its_period(period: float) -> None:
    t = np.arange(60)
    beat = robust.rhythm(np.sin(2 * np.pi * t / period + 0.3))
    multiple = beat.period / period
    assert abs(multiple - round(multiple)) < 0.5 / period + 1e-9
    assert beat.period <= 2 * period + 0.5
    assert beat.regularity > 0.9 and beat.trough < -0.4 and beat.surprise > 3.3


def test_a_wave_in_as_much_noise_is_still_found() -> None:
    rng, t = np.random.default_rng(1), np.arange(120)
    found = [
        robust.rhythm(np.sqrt(2) * np.sin(2 * np.pi * t / 10) + rng.normal(size=120)).surprise > 3.3
        for _ in range(50)
    ]
    assert np.mean(found) > 0.8


@pytest.mark.parametrize(("persistence", "most"), [(0.0, 0.02), (0.5, 0.02), (0.9, 0.04)])
def test_noise_has_no_rhythm(persistence: float, most: float) -> None:
    rng, fooled = np.random.default_rng(2), 0
    for _ in range(200):
        y, e = np.zeros(80), rng.normal(size=80)
        for i in range(80):
            y[i] = persistence * y[i - 1] + e[i]
        beat = robust.rhythm(robust.detrended(np.arange(80.0), y))
        fooled += beat.regularity >= 0.4 and beat.trough <= -0.2 and beat.surprise >= 3.3
    assert fooled / 200 <= most


def test_swings_grow_at_the_rate_they_were_given() -> None:
    t = np.arange(80.0)
    wave = np.exp(-0.03 * t) * np.cos(2 * np.pi * t / 8)
    np.testing.assert_allclose(robust.envelope_growth(t, wave**2, 8), -0.03, rtol=1e-6)
    assert robust.envelope_growth(t, np.zeros(80), 8) == 0


def test_the_middle_mean_forgets_spikes() -> None:
    assert robust.middle_mean(np.array([1.0, 2.0, 3.0, 1e9])) == 2.5
    assert np.isnan(robust.middle_mean(np.array([])))


def test_autocorrelation_of_an_alternation() -> None:
    r = np.array([1.0, -1.0] * 10)
    assert robust.autocorrelation(r, 1) == pytest.approx(-1)
    assert robust.autocorrelation(r, 2) == pytest.approx(1)
    assert robust.autocorrelation(np.zeros(5), 1) == 0
