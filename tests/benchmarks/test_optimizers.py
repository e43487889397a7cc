"""The optimizer bench: its arithmetic, its verdicts, and one effect run from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optimizers
import pytest
from optimizer_effects.common import Arm, Measured, claim, fixed, to_accuracy, to_loss
from optimizer_effects.intervals import interval, late, rounds_to, swing


def measured(label: str, values: Any) -> Measured:
    arm = Arm(label, None, None, SimpleNamespace(test=None), 9, 3, {"lr": (0.1, 0.2)})
    curves = {"v": np.asarray(values, float)}
    return Measured(
        arm, {"lr": 0.1}, 2, curves, {(0.1,): curves, (0.2,): {"v": -curves["v"]}}, True
    )


def judged(less: Any, more: Any, **options: Any) -> dict[str, Any]:
    row = claim(
        "e", "t", measured("a", less), measured("b", more), lambda m: m.curves["v"], "u",
        because="of this", **options,
    )  # fmt: skip
    json.dumps(row, allow_nan=False)
    return row


def test_the_interval_is_students() -> None:
    mean, low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451 * np.sqrt(2.5) / np.sqrt(5)
    assert mean == 3.0
    assert (low, high) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert interval([2.0]) == (2.0, 2.0, 2.0)


def test_rounds_to_a_target_and_what_never_gets_there() -> None:
    rising = np.array([[0.1, 0.5, 0.4, 0.6], [0.1, 0.2, np.nan, np.nan], [0.6, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(rounds_to(rising, 0.5, rising=True), [2, 5, 1])
    np.testing.assert_array_equal(rounds_to(-rising, -0.5, rising=False), [2, 5, 1])
    np.testing.assert_array_equal(np.floor(to_accuracy(0.5)({"test_accuracy": rising})), [2, 5, 1])
    falling = {"test_loss": 1 - rising}
    np.testing.assert_array_equal(np.floor(to_loss(0.5)(falling)), [2, 5, 1])


def test_a_trend_is_no_swing() -> None:
    steady = np.linspace(5, 4, 300)[None]
    assert swing(steady)[0] < 0.003
    noise = np.random.default_rng(0).normal(size=(4, 3000))
    np.testing.assert_allclose(swing(steady[:, :1] + noise), 1, rtol=0.06)
    np.testing.assert_allclose(late(steady), np.linspace(5, 4, 300)[-30:].mean())
    lost = np.where(np.arange(300) < 250, steady, np.nan)
    assert np.isinf(late(lost)[0])


@pytest.mark.parametrize(
    ("less", "more", "verdict"),
    [
        ([1, 2, 3], [2, 4, 6.5], "agrees"),
        ([2, 4, 6.5], [1, 2, 3], "disagrees"),
        ([1, 2, 3], [2, 1, 3], "not shown"),
        ([1, 2, np.inf], [1, 2, 3], "disagrees"),
        ([1, 2, 3], [1, np.inf, 3], "agrees"),
        ([np.inf, 2, 3], [1, np.inf, 3], "not shown"),
        ([1, 1, 1], [1, 1, 1], "not shown"),
    ],
)
def test_the_verdict_is_where_the_paired_interval_lies(less: Any, more: Any, verdict: str) -> None:
    row = judged(less, more, censored=3.0)
    assert row["verdict"] == verdict
    assert ("because" in row) == (verdict != "agrees")
    assert row["less"]["seeds_that_reach_it"] == sum(v < 3 for v in less)


def test_pairs_of_seeds_are_compared_and_not_their_means() -> None:
    """Seeds differ a hundredfold, the ratio within a seed is always 0.9."""
    more = np.array([1.0, 10.0, 100.0])
    row = judged(0.9 * more, more)
    assert row["verdict"] == "agrees"
    assert row["comparison"] == pytest.approx([0.9] * 3)
    low, high = row["less"]["interval"]
    assert low < 0 < high


def test_differences_are_compared_where_zero_is_a_value() -> None:
    row = judged([0.0, 0.1, 0.2], [0.1, 0.2, 0.29], ratio=False)
    assert row["verdict"] == "agrees"
    assert row["comparison"][0] == pytest.approx(-0.29 / 3, abs=1e-6)
    assert judged([0.0, 0.3], [0.1, 0.2], ratio=False)["verdict"] == "not shown"


def test_one_setting_of_an_arm() -> None:
    other = fixed(measured("a", [1, 2, 3]), 0.2)
    assert other.chosen == {"lr": 0.2} and other.tried == 1
    np.testing.assert_array_equal(other.curves["v"], [-1, -2, -3])


@pytest.mark.slow
def test_an_effect_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "optimizers.json"
    name = "server momentum: exact gradients"
    # A process of its own: the script makes cores into devices before JAX starts.
    script = [sys.executable, optimizers.__file__, "--quick", "--rows", name, "--out", str(out)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rounds to test loss") == 3
    rows = json.loads(out.read_text())["rows"]
    told = [r for r in rows if r["kind"] == "row"]
    assert [r["effect"] for r in told] == ["server momentum"] * 3
    for row in told:
        assert row["quick"] and row["less"]["settings_tried"] == 5
        assert row["verdict"] in ("agrees", "disagrees", "not shown")
        assert len(row["less"]["by_seed"]) == 2 and row["less"]["rounds"] == 6
    (drawn,) = (r for r in rows if r["kind"] == "courses")
    losses = [c["mean"] for c in drawn["courses"]]
    assert all(len(curve) == 6 and curve[-1] < curve[0] for curve in losses)
    assert out.with_suffix(".png").stat().st_size > 10_000
