"""The grouped mean: aggregator laws, routing, isolation, what it collects and what it holds."""

import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.aggregation.grouped import grouped
from fedjax_sim.aggregation.mean import mean
from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Model, Report

SEEDS = st.integers(0, 2**31 - 1)
M, K = 3, 7
PLAIN, ONE, COLLECTING = grouped(M), grouped(1), grouped(M, collect=("sketch", "client"))
MEAN = mean()
FEW = hypothesis.settings(max_examples=5)  # each draw has seven reports


def reports(seed, k=K, absent=0.3):
    """Ragged weights; groups from -1 to M, of which two are out of range."""
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=(k, 4)), "b": rng.normal(size=(k,))}
    update = Model(jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), params))
    weight = rng.uniform(0.5, 3, size=k) * (rng.uniform(size=k) >= absent)
    group = jnp.asarray(rng.integers(-1, M + 1, k), jnp.int32)
    aux = {"sketch": jnp.asarray(rng.normal(size=(k, 2)), jnp.float32), "client": 7 + jnp.arange(k)}
    return Report(update, jnp.asarray(weight, jnp.float32), group, aux)


def one_shape(many):
    return tree.shapes(jax.tree.map(lambda x: x[0], many))


@functools.cache
def compiled(rule):
    """The rule's parts, jitted: pieces of one length are compiled once."""
    zero = functools.cache(lambda k: rule.zero(one_shape(reports(0)), k))
    return zero, jax.jit(rule.accumulate), jax.jit(rule.finalize)


def fold(rule, many, cuts=()):
    """Pieces into accumulators of their own, which are then added up, as devices do."""
    k = many.weight.shape[0]
    zero, accumulate, finalize = compiled(rule)
    parts = []
    for a, b in itertools.pairwise([0, *sorted(cuts), k]):
        piece = jax.tree.map(lambda x, a=a, b=b: x[a:b], many)
        parts.append(accumulate(zero(k), piece, jnp.arange(a, b)) if b > a else zero(k))
    total = parts[0]
    for part in parts[1:]:
        total = tree.add(total, part)
    return finalize(total)


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6), a, b)


@FEW
@hypothesis.given(seed=SEEDS)
def test_each_group_has_numpys_mean(seed):
    many, out = reports(seed), fold(PLAIN, reports(seed))
    weight, group = np.asarray(many.weight, np.float64), np.asarray(many.group)
    for m in range(M):
        mine = (group == m) & (weight > 0)
        assert int(out.aux["group_heard"][m]) == mine.sum()
        np.testing.assert_allclose(out.aux["group_weight"][m], weight[mine].sum(), rtol=1e-6)
        for leaf, got in zip(
            jax.tree.leaves(many.update), jax.tree.leaves(out.update), strict=True
        ):
            value = np.asarray(leaf, np.float64)[mine]
            want = np.average(value, axis=0, weights=weight[mine]) if mine.any() else 0
            np.testing.assert_allclose(got[m], want + np.zeros(got[m].shape), rtol=1e-5, atol=1e-6)
    inside = (group >= 0) & (group < M)
    np.testing.assert_allclose(out.weight, weight[inside].sum(), rtol=1e-6)
    assert int(out.n_present) == ((weight > 0) & inside).sum()


@FEW
@hypothesis.given(seed=SEEDS, cuts=st.lists(st.integers(0, K), max_size=4))
def test_any_split_gives_the_same(seed, cuts):
    """Also pieces of one report, which take another path, and empty ones: the identity."""
    rule = COLLECTING
    whole = fold(rule, reports(seed))
    assert_close(whole, fold(rule, reports(seed), cuts))
    assert_close(whole, fold(rule, reports(seed), range(1, K)))


@FEW
@hypothesis.given(seed=SEEDS)
def test_weightless_nan_is_as_good_as_absent(seed):
    many = reports(seed, absent=0.5)
    gone = many.weight == 0
    spoil = lambda x: jnp.where(gone.reshape((-1,) + (1,) * (x.ndim - 1)), jnp.nan, x)  # noqa: E731
    bad = many._replace(
        update=jax.tree.map(spoil, many.update),
        aux=many.aux | {"sketch": spoil(many.aux["sketch"])},
    )
    rule = COLLECTING
    for cuts in ((), (1, 3)):
        jax.tree.map(np.testing.assert_array_equal, fold(rule, many, cuts), fold(rule, bad, cuts))


@pytest.mark.parametrize("cuts", [(), tuple(range(1, K))])
def test_a_nan_in_one_group_spoils_no_other(cuts):
    many = reports(0, absent=0.0)._replace(group=jnp.arange(K, dtype=jnp.int32) % M)
    bad = jax.tree.map(lambda x: x.at[1].set(jnp.nan), many.update)
    clean, dirty = fold(PLAIN, many, cuts), fold(PLAIN, many._replace(update=bad), cuts)
    for a, b in zip(jax.tree.leaves(clean.update), jax.tree.leaves(dirty.update), strict=True):
        assert np.isnan(b[1]).all()
        np.testing.assert_array_equal(np.delete(a, 1, 0), np.delete(b, 1, 0))


@FEW
@hypothesis.given(seed=SEEDS)
def test_one_group_is_the_mean(seed):
    many = reports(seed)._replace(group=jnp.zeros(K, jnp.int32))
    ours, theirs = fold(ONE, many, (4,)), fold(MEAN, many, (4,))
    assert_close(jax.tree.map(lambda x: x[0], ours.update), theirs.update)
    np.testing.assert_allclose(ours.weight, theirs.weight, rtol=1e-6)


def test_nobody_gives_zeros_and_weight_zero():
    out = fold(PLAIN, reports(0, absent=1.1), (2,))
    assert float(out.weight) == int(out.n_present) == 0
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(out.update))


def test_collected_values_come_by_cohort_row_also_of_no_group():
    many, order = reports(4), np.random.default_rng(0).permutation(K)
    rule = COLLECTING
    acc = rule.zero(one_shape(many), K)
    for at in order:  # clients end in any order
        acc = rule.accumulate(acc, jax.tree.map(lambda x, at=at: x[at : at + 1], many), at[None])
    aux = rule.finalize(acc).aux
    heard = np.asarray(many.weight) > 0
    assert (np.asarray(many.group)[heard] < 0).any() or (np.asarray(many.group)[heard] >= M).any()
    np.testing.assert_array_equal(aux["row_weight"], many.weight)
    for name in ("sketch", "client"):
        value = np.asarray(many.aux[name])
        want = np.where(heard.reshape((-1,) + (1,) * (value.ndim - 1)), value, 0)
        np.testing.assert_array_equal(aux[name], want)


def test_bytes_held_are_the_accumulators():
    many = reports(0)
    for rule in (PLAIN, COLLECTING):
        acc = rule.zero(one_shape(many), K)
        counted = tree.n_bytes((acc.total, acc.rows))
        assert rule.bytes_held(one_shape(many), K) == counted


def test_whole_numbers_are_averaged_as_numbers():
    whole = Report(jnp.arange(4), jnp.ones(4), jnp.array([0, 0, 1, 1]), {})
    acc = PLAIN.accumulate(PLAIN.zero(one_shape(whole), 4), whole, jnp.arange(4))
    np.testing.assert_allclose(PLAIN.finalize(acc).update, [0.5, 2.5, 0.0])


def test_no_groups_are_refused():
    with pytest.raises(InputError, match="groups = 0"):
        grouped(0)
