"""Fairness metrics: closed forms, NumPy and slow sums as judges, masks, NaN, groups."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from helpers import quick_jit
from oracles import fair as oracle

from fedjax_sim.diagnostics import fairness

spread = quick_jit(functools.partial(fairness.spread, direction=1))
of_losses = quick_jit(functools.partial(fairness.spread, direction=-1))
CLOSE = {"rtol": 2e-6, "atol": 1e-7}


def all_of(n):
    return np.ones(n, bool)


@hypothesis.given(seed=st.integers(0, 2**31 - 1))
def test_a_spread_is_that_of_slow_sums_and_numpy(seed):
    rng = np.random.default_rng(seed)
    x, mask = rng.random(23).astype(np.float32), rng.random(23) < 0.7
    hypothesis.assume(mask.any())
    x[~mask] = rng.choice([np.nan, np.inf, -7.0], (~mask).sum())  # has no influence
    got, held = spread(x, mask), x[mask].astype(np.float64)
    want = oracle.metrics(held)
    want |= {f"p{p}": np.percentile(held, p) for p in (10, 50, 90)}
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, err_msg=name, **CLOSE)


ALONE = {
    "worst10": fairness.worst,
    "p90": lambda v, m=None: fairness.percentile(v, 90, m),
} | {n: getattr(fairness, n) for n in ("mean", "std", "cvar", "jain", "gini")}
every = quick_jit(lambda *given: {n: f(*given) for n, f in ALONE.items()})


def test_each_function_alone_is_what_the_spread_says(x64):
    rng = np.random.default_rng(1)
    x, mask = rng.random(23), rng.random(23) < 0.8
    together = spread(x, mask)
    for given in ((x, mask), (x[mask],)):
        for name, value in every(*given).items():
            np.testing.assert_allclose(value, together[name], rtol=1e-13, err_msg=name)


tails = quick_jit(lambda x, share: [fairness.cvar(x, share=share, high=h) for h in (False, True)])


def test_closed_forms(x64):
    n = 8
    for k in range(1, n + 1):  # k clients share everything, the others have nothing
        got = every(np.repeat([3.0, 0.0], [k, n - k]))
        assert float(got["jain"]) == pytest.approx(k / n, rel=1e-14)
        assert float(got["gini"]) == pytest.approx(1 - k / n, abs=1e-14)
    line = np.arange(1.0, 101.0)
    got = every(line)
    assert float(got["gini"]) == pytest.approx((100 - 1) / (3 * 100), rel=1e-13)
    assert float(got["jain"]) == pytest.approx(3 * 101 / (2 * 201), rel=1e-13)
    assert float(got["std"]) == pytest.approx(np.sqrt((100**2 - 1) / 12), rel=1e-13)
    assert float(got["worst10"]) == pytest.approx(5.5, rel=1e-14)
    for share, low in ((0.25, 13.0), (1.0, 50.5), (0.001, 1.0)):
        assert float(tails(line, share)[0]) == pytest.approx(low, rel=1e-14)
    # 15 % of 10 values are the first and half of the second
    assert float(tails(np.arange(10.0), 0.15)[0]) == pytest.approx(0.5 / 1.5)


worst = quick_jit(lambda x, m: [fairness.worst(x, m, high=h) for h in (False, True)])


@pytest.mark.parametrize("n", [1, 9, 10, 11, 20, 29, 30, 70, 1000])
def test_the_worst_tenth_is_of_whole_clients(n):
    x = np.arange(1000, dtype=np.float32)
    few = -(-n // 10)
    low, high = worst(x, x < n)
    np.testing.assert_allclose(low, x[:few].mean(), rtol=1e-6)
    np.testing.assert_allclose(high, x[n - few : n].mean(), rtol=1e-6)


def test_cvar_of_losses_is_the_minimum_that_defines_it(x64):
    """Rockafellar and Uryasev: `min_t t + mean max(x - t, 0) / share`, attained at an x."""
    x = np.random.default_rng(3).exponential(size=10)
    for share in (0.1, 0.33, 0.5, 1.0):
        want = min(t + np.maximum(x - t, 0).mean() / share for t in x)
        assert float(tails(x, share)[1]) == pytest.approx(want, rel=1e-12)


def test_what_is_bad_is_high_for_losses():
    x = np.array([1.0, 2.0, 3.0, 10.0], np.float32)
    got = of_losses(x, all_of(4))
    assert set(got) == {"mean", "p10", "p50", "p90", "std", "worst10", "cvar"}
    np.testing.assert_allclose([got["worst10"], got["cvar"]], [10.0, 6.5], rtol=1e-6)
    unknown = jax.eval_shape(functools.partial(fairness.spread, direction=0), x, all_of(4))
    assert set(unknown) == {"mean", "p10", "p50", "p90", "std"}


@hypothesis.given(seed=st.integers(0, 2**31 - 1), factor=st.floats(1e-4, 1e4))
def test_indices_do_not_see_scale_nor_order_nor_copies(seed, factor):
    x = np.random.default_rng(seed).random(12).astype(np.float32) + 0.01
    value = every(x)
    for other in (np.float32(factor) * x, x[::-1].copy(), np.repeat(x, 3)):
        got = every(other)
        for index in ("jain", "gini"):
            np.testing.assert_allclose(got[index], value[index], rtol=2e-5, atol=2e-6)


def test_taking_from_the_rich_makes_all_indices_fairer(x64):
    x = np.array([0.2, 0.5, 0.6, 0.9, 0.9, 0.9, 0.9, 0.9])
    even = np.array([0.3, 0.5, 0.6, 0.8, 0.9, 0.9, 0.9, 0.9])
    before, after = every(x), every(even)
    assert after["jain"] > before["jain"] and after["cvar"] > before["cvar"]
    assert after["gini"] < before["gini"] and after["std"] < before["std"]


def test_equal_zero_nobody_nan_and_infinity():
    zeros, three = np.zeros(4, np.float32), np.array([0.5, np.nan, 0.7], np.float32)
    same = spread(zeros, all_of(4))
    assert {n: float(same[n]) for n in ("jain", "gini", "std")} == {"jain": 1, "gini": 0, "std": 0}
    assert all(np.isnan(v) for v in spread(zeros, ~all_of(4)).values())
    assert all(np.isnan(v) for v in spread(three, all_of(3)).values())
    without = spread(three, np.array([True, False, True]))
    assert float(without["mean"]) == pytest.approx(0.6)
    lost = of_losses(np.array([1.0, 2.0, np.inf], np.float32), all_of(3))
    assert not any(np.isfinite(v) for v in lost.values())


def test_groups():
    x = np.array([0.9, 0.7, 0.5, 0.1, 0.2], np.float32)
    groups, mask = np.array([0, 0, 2, 2, 3]), np.array([True, True, True, False, False])
    means = fairness.group_means(x, groups, 4, mask)
    np.testing.assert_allclose(means, [0.8, np.nan, 0.5, np.nan], rtol=1e-6)
    assert float(fairness.worst_group(means)) == pytest.approx(0.5)
    assert float(fairness.worst_group(means, high=True)) == pytest.approx(0.8)
    assert float(fairness.group_gap(means)) == pytest.approx(0.3)
    found = fairness.parity(x, mask, groups, 4, direction=1)
    assert {n: round(float(v), 5) for n, v in found.items()} == {"gap": 0.3, "min": 0.5}
    assert set(fairness.parity(x, mask, groups, 4, direction=-1)) == {"gap", "max"}
    lost = np.where(np.arange(5) == 1, np.nan, x).astype(np.float32)
    assert np.isnan(float(fairness.parity(lost, mask, groups, 4, direction=1)["gap"]))
    assert np.isnan(float(fairness.group_gap(np.full(3, np.nan))))


def test_under_vmap_as_one_by_one(x64):
    rng = np.random.default_rng(5)
    x, mask = rng.random((3, 23)), rng.random((3, 23)) < 0.7
    many = quick_jit(jax.vmap(functools.partial(fairness.spread, direction=1)))(x, mask)
    for i in range(3):
        for name, value in spread(x[i], mask[i]).items():
            np.testing.assert_allclose(many[name][i], value, rtol=1e-13, err_msg=name)
