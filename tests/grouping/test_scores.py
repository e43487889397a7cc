"""Scores against scikit-learn, conflict against all pairs."""

import warnings

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from oracles.grouping import pair_cosines
from sklearn import metrics

from fedjax_sim import grouping
from fedjax_sim.core.checks import InputError
from fedjax_sim.grouping import scores

K = 5
JITTED = {
    name: quick_jit(getattr(scores, name), static_argnums=(2, 3))
    for name in ("ari", "nmi", "purity")
}
IDS = st.lists(st.tuples(st.integers(-1, K - 1), st.integers(-1, K - 1)), min_size=24, max_size=24)


def sklearns(name, a, b):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # many labels for few clients
        if name == "ari":
            return metrics.adjusted_rand_score(a, b)
        if name == "nmi":
            return metrics.normalized_mutual_info_score(a, b)
        table = metrics.cluster.contingency_matrix(a, b)
        return table.max(axis=1).sum() / table.sum()


def compare(name, pairs):
    a, b = np.array(pairs).T
    both = (a >= 0) & (b >= 0)
    got = JITTED[name](jnp.asarray(a), jnp.asarray(b), K, K)
    assert got.dtype == jnp.float64
    expected = sklearns(name, a[both], b[both]) if both.any() else 1.0
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", JITTED)
@hypothesis.given(pairs=IDS)
def test_scores_are_scikit_learns(name, pairs):
    with jax.enable_x64(True):
        compare(name, pairs)


@pytest.mark.parametrize("name", JITTED)
@pytest.mark.parametrize(
    "pairs",
    [
        [(0, 0)] * 24,
        [(0, i % K) for i in range(24)],
        [(i % K, 0) for i in range(24)],
        [(i % K, (3 * i + 1) % K) for i in range(24)],
        [(-1, 0)] * 24,
        [(1, 2)] + [(-1, 0)] * 23,
        [(i, i) for i in range(K)] + [(-1, -1)] * (24 - K),
        [(i, 0) for i in range(K)] + [(-1, -1)] * (24 - K),
    ],
    ids=["one", "split", "merged", "renamed", "nobody", "single", "singletons", "singletons-one"],
)
def test_scores_at_the_edges(name, pairs, x64):
    compare(name, pairs)


def test_a_million_clients_in_float32():
    """One client in a million moved shows neither as chance nor as NaN."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 20, 1_000_000).astype(np.int32)
    b = a.copy()
    assert float(grouping.ari(a, (b + 3) % 20, 20, 20)) == 1.0
    b[:100_000] = rng.integers(0, 20, 100_000)
    got = [float(f(a, b, 20, 20)) for f in (grouping.ari, grouping.nmi, grouping.purity)]
    expected = [sklearns(n, a, b) for n in ("ari", "nmi", "purity")]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_contingency_counts_and_refuses():
    table = scores.contingency(np.array([0, 1, -1, 1]), np.array([2, 0, 0, 0]), 2, 3)
    np.testing.assert_array_equal(table, [[0, 0, 1], [2, 0, 0]])
    with pytest.raises(InputError, match="below n_a = 2"):
        scores.contingency(np.array([0, 2]), np.array([0, 0]), 2, 1)
    with pytest.raises(InputError, match="shaped like a"):
        scores.contingency(np.array([0, 1]), np.array([0]), 2, 1)
    with pytest.raises(InputError, match="whole numbers"):
        scores.contingency(np.array([0.0, 1.0]), np.array([0, 1]), 2, 2)


def test_stability_looks_at_clients_that_stayed():
    before, now = np.array([0, 0, 1, 1, -1]), np.array([1, 1, 0, -1, 0])
    assert float(grouping.stability(now, before, 2)) == 1.0
    assert float(grouping.stability(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), 2)) < 0


def test_conflict_is_the_mean_over_all_pairs(x64):
    rng = np.random.default_rng(1)
    k, n = 4, 40
    ids = rng.integers(0, k - 1, n)  # group 3 is empty
    ids[:2], ids[ids == 2] = -1, 0
    ids[5] = 2  # a group of one
    updates = rng.normal(size=(n, 6)) + np.eye(k + 2)[ids + 1] * 2
    updates[7] = 0.0
    updates[8] = np.nan
    got = quick_jit(lambda u, i: grouping.conflict(u, i, k))(updates, ids)
    counted = (ids >= 0) & (np.arange(n) != 7) & (np.arange(n) != 8)
    cosines = pair_cosines(updates[counted])
    mine = ids[counted]
    pairs = ~np.eye(len(mine), dtype=bool)
    same = (mine[:, None] == mine[None]) & pairs
    np.testing.assert_allclose(got.within, cosines[same].mean(), rtol=1e-12)
    np.testing.assert_allclose(got.across, cosines[pairs & ~same].mean(), rtol=1e-10)
    np.testing.assert_allclose(got.overall, cosines[pairs].mean(), rtol=1e-12)
    for g in (0, 1):
        own = same & (mine == g)[None]
        np.testing.assert_allclose(got.per_group[g], cosines[own].mean(), rtol=1e-12)
    assert np.isnan(got.per_group[2:]).all()
    assert got.within > got.across + 0.1

    share = (cosines[same] < 0).mean()
    exact = grouping.negative_share(jax.random.key(0), updates, ids, k, pairs=None)
    np.testing.assert_allclose(exact, share, rtol=1e-12)
    # 40,000 pairs: a standard error of at most 0.0025; five of them.
    drawn = grouping.negative_share(jax.random.key(0), updates, ids, k, pairs=40_000)
    assert abs(float(drawn) - share) < 0.0125


def test_pairs_of_small_and_large_groups_are_drawn_in_proportion():
    """Three opposed pairs in one group, none in the other: 6 of 6 + 20 ordered pairs oppose."""
    ids = np.array([0] * 3 + [1] * 5)
    angle = np.concatenate([np.arange(3) * 2 * np.pi / 3, np.zeros(5)])
    updates = np.stack([np.cos(angle), np.sin(angle)], 1)
    share = grouping.negative_share(jax.random.key(1), updates, ids, 2, pairs=20_000)
    assert abs(float(share) - 6 / 26) < 5 * 0.5 / np.sqrt(20_000)


def test_conflict_without_pairs_is_nan():
    got = grouping.conflict(np.eye(2), np.array([0, 1]), 2)
    assert np.isnan(got.within) and float(got.across) == 0.0
    share = grouping.negative_share(jax.random.key(0), np.eye(2), np.array([0, 1]), 2)
    assert np.isnan(share)
