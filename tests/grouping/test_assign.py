"""Names that last, and clients that come later."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from oracles.grouping import blobs, same_partition

from fedjax_sim import grouping
from fedjax_sim.core.checks import InputError
from fedjax_sim.grouping import assign, scores, similarity
from fedjax_sim.grouping.types import Groups

K = 4
KEY = jax.random.key(0)


def overlap(a, b):
    return int(((a == b) & (a >= 0)).sum())


def test_renaming_keeps_what_can_be_kept():
    """The Hungarian names overlap most of all permutations; greedy ones at least half of that."""
    greedy = quick_jit(assign.rename, static_argnums=2)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        old, new = rng.integers(-1, K, (2, 25)).astype(np.int32)
        names = [np.array(p) for p in itertools.permutations(range(K))]
        most = max(overlap(np.where(new >= 0, p[new], -1), old) for p in names)
        best, quick = assign.rename_best(new, old, K), np.asarray(greedy(new, old, K))
        assert overlap(np.asarray(best), old) == most
        assert overlap(quick, old) >= most / 2
        for ids in (best, quick):
            assert same_partition(ids, new)
            np.testing.assert_array_equal(np.asarray(ids) == -1, new == -1)


def test_a_permutation_is_undone():
    old = np.arange(20) % K
    new = (old + 3) % K
    np.testing.assert_array_equal(assign.rename(new, old, K), old)


def test_regrouping_keeps_names_and_absent_clients():
    x, _ = blobs(0, 24, 4, K, apart=12.0)
    kernel = grouping.kmeans(K)
    before = quick_jit(kernel.fit)(KEY, x)
    again = quick_jit(lambda key, v, m, b: assign.regroup(kernel, key, v, Groups(b, {}), m, k=K))
    moved = x.copy()
    moved[0] = x[1]  # client 0 goes to client 1's group
    away = np.arange(24) < 20
    for i in range(4):
        after = again(jax.random.key(10 + i), moved, away, before.ids)
        expected = np.asarray(before.ids).copy()
        expected[0] = before.ids[1]
        np.testing.assert_array_equal(after.ids, expected)
        np.testing.assert_array_equal(after.info["sizes"], np.bincount(expected, minlength=K))
        near = ((np.asarray(after.info["centers"])[expected] - moved) ** 2).sum(1)[:20]
        assert near.max() < 30  # centers follow the names
        assert scores.stability(after.ids, before.ids, K) > 0.8


def test_noise_loses_its_name_and_newcomers_without_a_group_wait():
    kernel = grouping.density(1.0, least=2)
    before = Groups(jnp.asarray([1, 1, 0, 0, -1]), {})
    x = np.array([[0.0], [0.1], [5.0], [9.0], [0.2]])
    after = assign.regroup(kernel, KEY, x, before, k=2)
    assert after.ids.tolist() == [1, 1, -1, -1, 1]


def test_new_clients_join_the_group_they_are_like():
    x, truth = blobs(0, 24, 4, K, apart=12.0)
    new, expected = blobs(5, 9, 4, K, apart=12.0)
    ids = np.where(np.arange(24) == 3, -1, truth)
    table = np.asarray(similarity.cosine(np.concatenate([new, x])))
    cross, inner = table[:9, 9:], table[9:, 9:]
    np.testing.assert_array_equal(assign.to_groups(cross, ids, K), expected)
    medoids = np.asarray(assign.medoids_of(inner, ids, K))
    for g in range(K):
        own = np.flatnonzero(ids == g)
        assert medoids[g] == own[inner[np.ix_(own, own)].sum(0).argmax()]
    np.testing.assert_array_equal(assign.to_medoids(cross, medoids), expected)
    centers = jnp.asarray(np.stack([x[ids == g].mean(0) for g in range(K)]))
    np.testing.assert_array_equal(assign.to_centers(new, centers), expected)
    np.testing.assert_array_equal(assign.to_centers(7 * new, centers, metric="cosine"), expected)


def test_empty_groups_take_nobody():
    cross = np.array([[0.1, 0.9, 0.2]])
    assert assign.to_groups(cross, np.array([2, -1, 0]), 3).tolist() == [0]
    assert assign.to_groups(cross, np.array([-1, -1, -1]), 3).tolist() == [-1]
    assert assign.medoids_of(np.eye(3), np.array([1, 1, -1]), 3).tolist() == [-1, 0, -1]
    assert assign.to_medoids(cross, np.array([-1, 0, -1])).tolist() == [1]
    assert assign.to_medoids(cross, np.array([-1, -1])).tolist() == [-1]


def test_wrong_widths_are_refused():
    with pytest.raises(InputError, match="2 features"):
        assign.to_centers(np.zeros((1, 3)), jnp.zeros((4, 2)))
    with pytest.raises(InputError, match="one column a client"):
        assign.to_groups(np.zeros((1, 3)), np.zeros(4, int), 2)
