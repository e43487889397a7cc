"""Evidence against closed forms: what each number is for curves whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from fedjax_sim.diagnostics import beside, evidence
from fedjax_sim.diagnostics.course import course_of, stretch, tail
from fedjax_sim.diagnostics.series import sketch_of


def numbers(y, floor: float | None = 0.0, **more) -> dict[str, float]:
    return evidence.of_loss(sketch_of(y), floor, **more)


@pytest.mark.parametrize("rounds", [60, 200, 1000])
def test_a_geometric_fall_has_its_pace(rounds: int) -> None:
    rate = 0.1 ** (1 / rounds)
    e = numbers(5 + rate ** np.arange(rounds), 5.0)
    want = 1 - 0.1**0.25
    np.testing.assert_allclose([e["fall_low"], e["fall"], e["fall_high"]], want, rtol=2e-3)
    np.testing.assert_allclose(e["growth"], np.log(rate), rtol=1e-3)
    assert e["height"] == pytest.approx(0.1, rel=0.15)
    assert not e["structured"] and e["rise"] < 1.06


def test_the_limit_of_a_geometric_fall_is_found_without_a_floor() -> None:
    for limit in (5.0, -3.0):
        y = limit + 0.97 ** np.arange(100)
        e = numbers(y, None)
        np.testing.assert_allclose(e["base"], limit, atol=0.02)
        assert np.isnan(e["floor"])


def test_a_positive_loss_is_not_expected_to_fall_below_zero() -> None:
    y = np.linspace(3, 1, 100)
    assert numbers(y, None)["base"] == 0
    assert numbers(y - 10, None)["base"] < -9


def test_noise_counts_for_no_fall() -> None:
    y = 1 + 0.1 * np.random.default_rng(0).normal(size=100)
    assert numbers(y, None)["base"] == numbers(y, None)["best"]


@pytest.mark.parametrize("rounds", [100, 3000])
def test_noise_is_measured_and_has_no_structure(rounds: int) -> None:
    y = 2 + 0.3 * np.random.default_rng(1).normal(size=rounds)
    e = numbers(y)
    assert e["noise"] == pytest.approx(0.3, rel=0.2)
    assert e["von_neumann"] == pytest.approx(2, abs=0.4)
    assert e["turning_rate"] == pytest.approx(2 / 3, abs=0.1)
    assert abs(e["memory_surprise"]) < 2.6
    assert not e["structured"]


@pytest.mark.parametrize("rounds", [40, 256, 257, 5000])
def test_an_alternation_of_period_two(rounds: int) -> None:
    e = numbers(np.where(np.arange(rounds) % 2, 1.5, 0.5))
    assert e["structured"] and e["period"] == 2
    assert e["memory"] == pytest.approx(-1, abs=0.05)
    assert e["swing"] == pytest.approx(1, rel=0.12)
    assert e["fading"] == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("rounds", "period"), [(60, 6), (200, 25), (1000, 5), (1000, 120)])
def test_a_wave(rounds: int, period: float) -> None:
    e = numbers(2 + np.sin(2 * np.pi * np.arange(rounds) / period))
    assert e["structured"]
    assert e["period"] == pytest.approx(period, rel=0.1)
    assert e["swing"] == pytest.approx(1, rel=0.12)
    assert e["fading"] == pytest.approx(1, rel=0.25)


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_swings_fade_by_their_factor_over_half_the_run(factor: float) -> None:
    t = np.arange(160)
    y = 2 + factor ** -(t / 80) * np.sin(2 * np.pi * t / 8)
    assert numbers(y, -100.0)["fading"] == pytest.approx(factor, rel=0.1)


def test_growth_and_its_envelope() -> None:
    t = np.arange(120)
    e = numbers(0.01 * 1.05**t)
    np.testing.assert_allclose([e["growth"], e["growth_low"]], np.log(1.05), rtol=1e-6)
    np.testing.assert_allclose([e["envelope"], e["envelope_before"]], 1.05**20, rtol=1e-6)
    assert e["top"] == pytest.approx(1.05**119 / 1.05**2, rel=1e-6)


def test_a_bump_is_remembered_as_an_earlier_rise() -> None:
    y = np.concatenate([np.full(20, 1.0), np.full(10, 5.0), np.full(70, 0.9)])
    e = numbers(y)
    assert e["earlier_rise"] == pytest.approx(5) and e["rise"] < 1.01


def test_a_loss_below_its_floor_is_judged_without_one() -> None:
    e = numbers(0.9 ** np.arange(50), 0.5)
    assert e["below_floor"] and np.isnan(e["floor"])
    assert not numbers(0.9 ** np.arange(50), 0.0)["below_floor"]


def test_another_loss_may_tell_where_the_run_began() -> None:
    y = np.full(40, 0.5)
    assert numbers(y, start=2.5)["height"] == pytest.approx(0.2)
    assert numbers(y, start=500.0)["height"] == pytest.approx(1)


def test_lengths_and_cosines() -> None:
    t = np.arange(100)
    series = {
        "loss": sketch_of(0.9**t),
        "step_norm": sketch_of(0.9**t),
        "step_cosine": sketch_of([None, *np.full(99, 0.7)]),
    }
    e = beside.beside(series, 0.0)
    np.testing.assert_allclose(e["step_norm_growth"], 25 * np.log(0.9), rtol=1e-6)
    np.testing.assert_allclose(e["step_cosine"], 0.7)
    assert e["step_norm_ratio"] < 1e-3
    assert e["rounds"] == 100 and "broken" not in e
    series["step_norm"] = sketch_of([1.0, 2.0, np.inf])
    assert beside.beside(series, 0.0)["broken"] == 1


def test_overfitting_is_a_test_loss_that_turns_up_while_training_goes_on() -> None:
    t = np.arange(100.0)
    train, up = sketch_of(0.97**t), sketch_of(0.3 + np.abs(t - 40) / 100)
    e = beside.against_test(course_of(train), course_of(up), 0.0)
    assert e["overfit"] and e["test_rise"] == pytest.approx(0.55 / 0.4, rel=0.15)
    down = sketch_of(0.3 + 0.97**t)
    assert not beside.against_test(course_of(train), course_of(down), 0.0)["overfit"]


def test_the_curve_of_a_sketch_conserves_time() -> None:
    course = course_of(sketch_of(np.arange(1000.0)))
    np.testing.assert_allclose(course.t, course.y)
    assert course.points == 1000 and course.stride == 4
    part = stretch(course, 0.5)
    assert part is not None
    np.testing.assert_allclose(part.size2, 0, atol=1e-6)
    np.testing.assert_allclose(part.step2, 0, atol=1e-6)
    assert tail(course, 0.1, 5) == slice(225, 250)


@pytest.mark.parametrize("y", [[], [1.0], [2.0, 1.0], [0.0] * 30, [1e30] * 12, [np.nan] * 4])
def test_degenerate_series_give_finite_or_named_numbers(y: list[float]) -> None:
    e = numbers(y)
    assert e["points"] == np.isfinite(y).sum()
    assert e["broken"] == float(bool(y) and np.isnan(y[-1]))
    for name, value in e.items():
        assert (
            np.isfinite(value)
            or name in ("slope_low", "slope_high", "noise_share", "floor")
            or (name.startswith(("fall", "growth")) and len(y) < 3)
        ), (name, value)
