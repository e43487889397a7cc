"""One curve's numbers against plain loops and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import compare as oracle

from fedjax_sim.diagnostics.targets import (
    DONE,
    Course,
    best_level,
    crossing,
    default_target,
    end_level,
    reached_at,
    steadiness,
)

VALUES = st.lists(st.floats(-5, 5).map(lambda v: round(v, 3)), min_size=1, max_size=40)


def course(values: Any, *, seed: int = 0, every: int = 1, **changes: Any) -> Course:
    values = np.asarray(values, float)
    rounds = np.arange(1, len(values) + 1) * float(every)
    end = {"rounds": float(len(values) * every), "bytes": 1000.0 * every * len(values)}
    end["seconds"] = 0.5 * every * len(values)
    made = Course(seed, rounds, values, 1000 * rounds, 0.5 * rounds, {**end}, DONE)
    return made._replace(**changes)


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("every", [1, 5])
def test_a_geometric_loss_is_met_at_the_exact_round(q: float, every: int) -> None:
    rounds = np.arange(1, 700) * every
    curve = course(3.0 * q**rounds, every=every)
    for target in (0.7 * 3.0 * q**every, 1e-2 * q):
        exact = math.log(target / 3.0) / math.log(q)
        assert reached_at(curve, "rounds", target, -1) == pytest.approx(exact, rel=1e-9)
        assert reached_at(curve, "bytes", target, -1) == pytest.approx(1000 * exact, rel=1e-9)
        assert reached_at(curve, "seconds", target, -1) == pytest.approx(0.5 * exact, rel=1e-9)


def test_a_straight_accuracy_is_met_between_its_measurements() -> None:
    curve = course(np.linspace(0.1, 1.0, 10), every=10)  # 0.01 a round
    assert reached_at(curve, "rounds", 0.537, 1) == pytest.approx(53.7)


@given(values=VALUES, target=st.floats(-5, 5), higher=st.booleans(), every=st.integers(1, 7))
def test_any_curve_against_the_loop(
    values: list[float], target: float, higher: bool, every: int
) -> None:
    curve, sign = course(values, every=every), 1 if higher else -1
    for axis in ("rounds", "bytes", "seconds"):
        along: Any = curve.axis(axis)
        want = oracle.to_target(list(along), values, target, higher)
        assert reached_at(curve, axis, target, sign) == pytest.approx(want, rel=1e-9, abs=1e-9)
    assert end_level(curve.values) == pytest.approx(oracle.end_level(values), abs=1e-12)
    assert best_level(curve.values, sign) == (max(values) if higher else min(values))


@given(values=VALUES.filter(lambda v: len(v) > 6), higher=st.booleans())
def test_steadiness_against_the_loops(values: list[float], higher: bool) -> None:
    found = steadiness(np.array(values), 1 if higher else -1)
    assert found.variance == pytest.approx(oracle.variance(values), abs=1e-9)
    assert found.largest_drop == pytest.approx(oracle.largest_drop(values, higher), abs=1e-12)
    assert found.spread == pytest.approx(oracle.spread(values), abs=1e-6)
    assert found.sign_changes == pytest.approx(oracle.sign_changes(values))


def test_steadiness_in_closed_form() -> None:
    up = steadiness(np.arange(30.0), 1)
    assert up.variance == pytest.approx(np.var(np.arange(10), ddof=1))
    assert (up.largest_drop, up.sign_changes) == (0.0, 0.0)
    assert up.spread == pytest.approx(0.0, abs=1e-9)
    swing = steadiness(np.array([1.0, -1.0] * 15), 1)
    assert (swing.largest_drop, swing.sign_changes) == (2.0, 1.0)
    # A best that lies before the last third counts: what was reached was lost again.
    assert steadiness(np.array([9.0] + [4.0] * 29), 1).largest_drop == 5.0
    noise = np.random.default_rng(0).normal(size=60_000)
    assert steadiness(noise, 1).sign_changes == pytest.approx(2 / 3, abs=0.01)
    assert steadiness(noise, 1).spread == pytest.approx(1.0, abs=0.02)


def test_few_measurements_say_what_they_can() -> None:
    assert all(map(math.isnan, steadiness(np.array([1.0, 2.0, 3.0]), 1)))
    four = steadiness(np.array([1.0, 2.0, 3.0, 2.5]), 1)
    assert (four.variance, four.largest_drop) == (0.125, 0.5)
    assert math.isnan(four.spread) and math.isnan(four.sign_changes)
    assert math.isnan(end_level(np.empty(0))) and math.isnan(best_level(np.empty(0), 1))
    assert reached_at(course([]), "rounds", 0.5, 1) == math.inf


def test_met_at_once_and_never() -> None:
    assert crossing(np.array([0.9, 0.2]), 0.9, 1) == 0.0
    assert crossing(np.array([0.1, 0.2]), 0.3, 1) == math.inf
    assert crossing(np.array([3.0, 0.0]), 1.5, -1) == 0.5  # a loss of 0 has no logarithm
    assert crossing(np.array([0.3, -0.3]), 0.0, -1) == 0.5


def test_the_default_target_is_the_worst_median_that_tells_something() -> None:
    def group(*ends: float) -> list[Course]:
        return [course([0.1, end / 2, end], seed=i) for i, end in enumerate(ends)]

    good, fair = group(0.9, 0.95, 0.97), group(0.5, 0.6, 0.9)
    found = default_target([("good", good), ("fair", fair)], 1)
    assert found is not None and found.value == 0.6
    assert found.origin == "the end level of fair, median over seeds, the worst of them"
    # One that never learnt ends where all begin.
    dead = [course([0.1, 0.1, 0.1], seed=i) for i in range(3)]
    found = default_target([("good", good), ("dead", dead), ("fair", fair)], 1)
    assert found is not None and found.value == 0.6
    assert "most met that of dead at their first evaluation" in found.origin
    losses = [[course([3.0, 1.0, end])] for end in (0.2, 0.4)]
    found = default_target([("a", losses[0]), ("b", losses[1])], -1)
    assert found is not None and found.value == 0.4
    assert found.origin == "the end level of b, the worst of them"
    assert default_target([("none", [course([])])], 1) is None
