"""Aggregator laws: identity, split invariance, weights, padding, breakdown point."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.aggregation.collect import collect
from fedjax_sim.aggregation.mean import mean
from fedjax_sim.aggregation.robust import coordinate_median
from fedjax_sim.aggregation.single import take_one
from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Model, Report

RULES = {"mean": mean, "median": lambda: collect(coordinate_median())}
SEEDS = st.integers(0, 2**31 - 1)


def reports(seed, k, absent=0.3):
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=(k, 3)), "b": rng.normal(size=(k,))}
    weight = rng.uniform(0.5, 3, size=k) * (rng.uniform(size=k) >= absent)
    update = Model(jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), params))
    weight = jnp.asarray(weight, jnp.float32)
    aux = {"normalizer": jnp.asarray(rng.integers(1, 9, k), jnp.float32)}
    return Report(update, weight, jnp.zeros(k, jnp.int32), aux)


def one_shape(many):
    return tree.shapes(jax.tree.map(lambda x: x[0], many))


def fold(rule, many, cuts):
    """Accumulate pieces into separate accumulators, then add them up, as devices do."""
    k = many.weight.shape[0]
    edges = [0, *sorted(cuts), k]
    parts = []
    for a, b in itertools.pairwise(edges):
        piece = jax.tree.map(lambda x, a=a, b=b: x[a:b], many)
        zero = rule.zero(one_shape(many), k)
        parts.append(rule.accumulate(zero, piece, jnp.arange(a, b)) if b > a else zero)
    total = parts[0]
    for part in parts[1:]:
        total = tree.add(total, part)
    return rule.finalize(total)


@pytest.mark.parametrize("name", RULES)
@hypothesis.given(seed=SEEDS, cuts=st.lists(st.integers(0, 8), max_size=4))
def test_any_split_gives_the_same(name, seed, cuts):
    many, rule = reports(seed, 8), RULES[name]()
    whole, split = fold(rule, many, []), fold(rule, many, cuts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), whole, split)


@hypothesis.given(seed=SEEDS, factor=st.floats(0.01, 100))
def test_the_mean_does_not_see_the_scale_of_weights(seed, factor):
    many = reports(seed, 6)
    scaled = many._replace(weight=many.weight * factor)
    a, b = fold(mean(), many, []), fold(mean(), scaled, [])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a.update, b.update
    )


@hypothesis.given(seed=SEEDS)
def test_the_mean_is_numpys(seed):
    many = reports(seed, 7, absent=0.2)
    weight = np.asarray(many.weight, np.float64)
    hypothesis.assume(weight.sum() > 0)
    ours = fold(mean(), many, [])
    for leaf, result in zip(
        jax.tree.leaves(many.update), jax.tree.leaves(ours.update), strict=True
    ):
        expected = np.average(np.asarray(leaf, np.float64), axis=0, weights=weight)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert int(ours.n_present) == (weight > 0).sum()


@hypothesis.given(seed=SEEDS)
def test_rescaling_multiplies_by_the_weighted_mean_of_the_named_value(seed):
    many = reports(seed, 5, absent=0.0)
    plain, rescaled = fold(mean(), many, []), fold(mean(rescale="normalizer"), many, [])
    factor = np.average(many.aux["normalizer"], weights=many.weight)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b, a * factor, rtol=1e-4, atol=1e-5),
        plain.update.params,
        rescaled.update.params,
    )


@pytest.mark.parametrize("name", RULES)
@hypothesis.given(seed=SEEDS)
def test_weightless_nan_is_as_good_as_absent(name, seed):
    many = reports(seed, 6, absent=0.5)
    gone = many.weight == 0
    bad = jax.tree.map(
        lambda x: jnp.where(gone.reshape((-1,) + (1,) * (x.ndim - 1)), jnp.nan, x), many.update
    )
    a = fold(RULES[name](), many, [3])
    b = fold(RULES[name](), many._replace(update=bad), [3])
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", RULES)
def test_nobody_gives_zero_and_weight_zero(name):
    many = reports(0, 4, absent=1.1)
    out = fold(RULES[name](), many, [2])
    assert float(out.weight) == 0
    assert int(out.n_present) == 0
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(out.update))


@hypothesis.given(seed=SEEDS, k=st.sampled_from([1, 2, 5, 8, 11]))
def test_the_median_is_numpys_over_the_present(seed, k):
    many = reports(seed, k)
    heard = np.asarray(many.weight) > 0
    hypothesis.assume(heard.any())
    ours = fold(collect(coordinate_median()), many, [])
    for leaf, result in zip(
        jax.tree.leaves(many.update), jax.tree.leaves(ours.update), strict=True
    ):
        expected = np.median(np.asarray(leaf)[heard], axis=0)
        np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("wild", [0, 1, 2, 3, 4])
def test_the_median_breaks_down_at_half_and_not_before(wild):
    many = reports(3, 7, absent=0.0)
    honest = np.asarray(many.update.params["b"])[wild:]
    poisoned = many.update.params["b"].at[:wild].set(1e6)
    bad = many._replace(update=Model({**many.update.params, "b": poisoned}))
    value = float(fold(collect(coordinate_median()), bad, []).update.params["b"])
    assert (honest.min() <= value <= honest.max()) == (wild < 4)


def test_integer_leaves_are_averaged_as_numbers():
    update = Model({"n": jnp.array([2, 5], jnp.int32)})
    weight = jnp.array([1.0, 2.0])
    many = Report(update, weight, jnp.zeros(2, jnp.int32), {})
    np.testing.assert_allclose(fold(mean(), many, [1]).update.params["n"], 4.0, rtol=1e-6)


def test_one_alone_keeps_its_dtypes_and_refuses_company():
    update = {"count": jnp.array([7], jnp.int32), "w": jnp.array([[1.5, 2.5]])}
    many = Report(update, jnp.array([3.0]), jnp.zeros(1, jnp.int32), {})
    out = fold(take_one(), many, [])
    assert out.update["count"].dtype == jnp.int32
    assert int(out.update["count"]) == 7
    np.testing.assert_array_equal(out.update["w"], [1.5, 2.5])
    with pytest.raises(InputError, match="cohort = 2: must be 1"):
        take_one().zero(one_shape(many), 2)
