"""The sketch: point by point in jax against the whole series in NumPy, and what it conserves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_sim.core.checks import InputError
from fedjax_sim.diagnostics.series import Sketch, empty, push, sketch_of


def streamed(values, present=None, bins=16) -> Sketch:
    """The sketch after all points, by one scan."""
    values = jnp.asarray(values, float)
    present = jnp.ones(values.shape, bool) if present is None else jnp.asarray(present)
    body = lambda s, point: (push(s, *point), None)  # noqa: E731
    return jax.jit(lambda v, p: jax.lax.scan(body, empty(bins), (v, p))[0])(values, present)


def assert_same(got: Sketch, want: Sketch, rtol: float, atol: float) -> None:
    for name in Sketch._fields:
        g, w = np.asarray(getattr(got, name)), np.asarray(getattr(want, name))
        assert g.shape == w.shape, name
        np.testing.assert_allclose(g, w, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("length", [0, 1, 2, 15, 16, 17, 31, 32, 33, 100, 257, 1000])
def test_streamed_equals_the_oracle_in_float64(length: int, x64: None) -> None:
    rng = np.random.default_rng(length)
    values = rng.normal(5, 2, length)
    values[length // 3 : length // 3 + 2] = np.nan
    values[-1:] = np.inf if length % 2 else values[-1:]
    present = rng.random(length) < 0.8
    got = streamed(values, present)
    assert got.mean.dtype == jnp.float64
    assert_same(got, sketch_of(values, present, bins=16), 1e-10, 1e-12)


def test_streamed_in_float32_is_close() -> None:
    values = 3 + np.random.default_rng(0).normal(size=3000).cumsum().astype(np.float32) / 30
    got = streamed(values, bins=32)
    assert got.mean.dtype == jnp.float32
    assert_same(got, sketch_of(values, bins=32), 1e-3, 1e-4)


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=120),
    st.sampled_from([16, 18, 64]),
)
def test_a_sketch_conserves_what_it_sums(values: list[float], bins: int) -> None:
    x = np.asarray(values)
    s = sketch_of(x, bins=bins)
    assert s.n.sum() == x.size == s.seen
    assert np.all(s.n[: -(-x.size // s.stride)] > 0)
    assert s.stride == 1 or x.size > bins * s.stride // 2
    total = np.sum(s.n * s.mean)
    np.testing.assert_allclose(total, x.sum(), rtol=1e-9, atol=1e-6)
    scatter = s.spread.sum() + np.sum(s.n * (s.mean - total / x.size) ** 2)
    np.testing.assert_allclose(scatter, np.sum((x - x.mean()) ** 2), rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(s.steps.sum(), np.sum(np.diff(x) ** 2), rtol=1e-9)
    d = np.sign(np.diff(x))
    assert s.turns.sum() == np.sum(d[1:] * d[:-1] < 0)
    assert (s.low.min(), s.high.max()) == (x.min(), x.max())
    assert (s.first, s.last) == (x[0], x[-1])


def test_short_series_are_kept_exactly() -> None:
    x = np.arange(16.0) ** 2
    s = streamed(x)
    np.testing.assert_array_equal(s.mean, x)
    np.testing.assert_array_equal(s.spread, 0)
    assert int(streamed(np.arange(17.0)).stride) == 2


def test_the_latest_points_stay_as_they_are() -> None:
    x = np.random.default_rng(1).normal(size=1003).astype(np.float32)
    s = streamed(x)
    np.testing.assert_array_equal(np.roll(s.latest, -(1003 % 8)), x[-8:])


def test_an_alternation_survives_merging() -> None:
    x = np.where(np.arange(4096) % 2, 1.0, 3.0)
    s = streamed(x)
    assert int(s.stride) == 256
    np.testing.assert_allclose(s.mean, 2, rtol=1e-6)
    np.testing.assert_allclose(s.spread / s.n, 1, rtol=1e-5)
    np.testing.assert_array_equal(s.turns[1:], 256)
    np.testing.assert_array_equal((s.low, s.high), (np.full(16, 1), np.full(16, 3)))


def test_absent_points_leave_no_trace_and_bad_ones_are_counted() -> None:
    before = streamed([1.0, 2.0, 4.0])
    absent = push(before, jnp.nan, False)
    assert_same(absent, before, 0, 0)
    bad = push(before, jnp.nan)
    assert bool(bad.broken) and int(bad.skipped) == 1 and int(bad.seen) == 3
    assert_same(bad._replace(broken=before.broken, skipped=before.skipped), before, 0, 0)
    mended = push(bad, 5.0)
    assert not bool(mended.broken) and float(mended.last) == 5


def test_many_series_at_once_equal_one_by_one() -> None:
    x = np.random.default_rng(2).normal(size=(3, 50)).astype(np.float32)
    present = np.random.default_rng(3).random((3, 50)) < 0.6
    start = jax.tree.map(lambda v: jnp.broadcast_to(v, (3, *v.shape)), empty(16))
    body = lambda s, point: (jax.vmap(push)(s, *point), None)  # noqa: E731
    many = jax.lax.scan(body, start, (x.T, present.T))[0]
    for i in range(3):
        one = streamed(x[i], present[i])
        assert_same(jax.tree.map(lambda v, i=i: v[i], many), one, 1e-6, 1e-6)


def test_the_state_never_changes_its_type() -> None:
    state = empty(16)
    after = jax.jit(push)(state, 1.0, True)
    for old, new in zip(state, after, strict=True):
        assert (old.dtype, old.weak_type, old.shape) == (new.dtype, new.weak_type, new.shape)


def test_none_is_absent_and_nan_is_not() -> None:
    assert int(sketch_of([1.0, None, 2.0]).skipped) == 0
    assert not sketch_of([1.0, 2.0, None]).broken
    assert sketch_of([1.0, 2.0, np.nan]).broken


@pytest.mark.parametrize("values", ["abc", [[1.0, 2.0]], [1.0, "x"]])
def test_what_is_no_series_is_refused(values: object) -> None:
    with pytest.raises(InputError, match="values"):
        sketch_of(values)


@pytest.mark.parametrize("bins", [0, 8, 17])
def test_bins_must_halve(bins: int) -> None:
    with pytest.raises(InputError, match="bins"):
        empty(bins)
