"""Linkage, spectra, densities and numbers of groups: against SciPy and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from oracles.grouping import blobs, same_partition, simplified_silhouette
from scipy.cluster import hierarchy
from scipy.spatial.distance import cdist, squareform
from sklearn import cluster, metrics

from fedjax_sim import grouping
from fedjax_sim.core.checks import InputError
from fedjax_sim.grouping import count, similarity
from fedjax_sim.grouping.hierarchical import LINKAGES, merge

KEY = jax.random.key(0)
N = 18


merging = quick_jit(lambda d, m, k, how: merge(d, m, k, linkage=how), static_argnums=(2, 3))


@pytest.mark.parametrize("linkage", LINKAGES)
def test_merging_in_jit_is_scipys_linkage(linkage, x64):
    """At every number of groups that is asked for, on points without ties; absent rows apart."""
    for k in (2, 5):
        for seed in range(4):
            x = np.random.default_rng(seed).normal(size=(N, 3))
            mask = np.arange(N) % 6 != seed
            distance = np.where(mask[:, None] & mask[None], cdist(x, x), 0)
            ids = np.asarray(merging(distance, mask, k, linkage))
            tree = hierarchy.linkage(x[mask], linkage)
            assert same_partition(ids[mask], hierarchy.fcluster(tree, k, "maxclust")), (seed, k)
            assert (ids[~mask] == -1).all()
            first = [int(np.argmax(ids == g)) for g in range(k)]
            assert first == sorted(first)


@pytest.mark.parametrize("linkage", LINKAGES)
def test_the_host_gives_scipys_merges(linkage, x64):
    x = np.random.default_rng(0).normal(size=(N, 3))
    groups = grouping.agglomerative(4, linkage=linkage).fit(KEY, x)
    tree = hierarchy.linkage(x, linkage)
    np.testing.assert_allclose(groups.info["merges"], tree, rtol=1e-9)
    assert same_partition(groups.ids, hierarchy.fcluster(tree, 4, "maxclust"))
    height = float(tree[-3:-1, 2].mean())
    cut = grouping.agglomerative(linkage=linkage, threshold=height).fit(KEY, x)
    assert same_partition(cut.ids, hierarchy.fcluster(tree, height, "distance"))
    assert int(cut.ids.max()) == 2 and cut.info["sizes"].shape == (3,)


def test_similarities_are_merged_by_their_distance_from_the_largest():
    x = np.random.default_rng(1).normal(size=(N, 3))
    table = np.asarray(similarity.cosine(x))
    groups = grouping.agglomerative(3, linkage="complete", takes="similarity").fit(KEY, table)
    distance = 1 - table.astype(np.float64)
    np.fill_diagonal(distance, 0)
    tree = hierarchy.linkage(squareform(distance, checks=False), "complete")
    assert same_partition(groups.ids, hierarchy.fcluster(tree, 3, "maxclust"))


def test_what_agglomerative_refuses():
    for kwargs in ({}, {"k": 2, "threshold": 1.0}, {"threshold": 1.0, "host": False}):
        with pytest.raises(InputError):
            grouping.agglomerative(**kwargs)
    with pytest.raises(InputError, match="features"):
        grouping.agglomerative(2, linkage="ward", takes="similarity")
    with pytest.raises(InputError, match="linkage"):
        grouping.agglomerative(2, linkage="centroid")


@pytest.fixture(scope="module")
def rings():
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = np.where(np.arange(40) % 2, 1.0, 3.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), np.arange(40) % 2


def test_spectral_groups_are_scikit_learns(rings):
    """Two rings, which no centers tell apart."""
    x, truth = rings
    table = similarity.rbf(x, gamma=3.0)
    groups = quick_jit(grouping.spectral(2).fit)(KEY, table)
    theirs = cluster.SpectralClustering(2, affinity="precomputed", random_state=0)
    assert same_partition(groups.ids, theirs.fit_predict(np.asarray(table, np.float64)))
    assert same_partition(groups.ids, truth)
    assert grouping.ari(quick_jit(grouping.kmeans(2).fit)(KEY, x).ids, truth, 2, 2) < 0.5


def test_the_spectrum_is_the_normalized_laplacians(rings, x64):
    from scipy.sparse.csgraph import laplacian

    x, _ = rings
    table = np.exp(-3.0 * cdist(x, x, "sqeuclidean"))
    mask = np.arange(40) % 7 != 0
    got = count.eigenvalues(table, mask)
    expected = 1 - np.linalg.eigvalsh(laplacian(table[np.ix_(mask, mask)], normed=True))
    np.testing.assert_allclose(got[: mask.sum()], expected, atol=1e-10)
    np.testing.assert_allclose(got[mask.sum() :], -2, atol=1e-10)


@pytest.mark.parametrize("takes", ["features", "similarity"])
@pytest.mark.parametrize("method", ["dbscan", "hdbscan"])
def test_density_groups_are_scikit_learns(method, takes):
    x = np.concatenate([blobs(0, 40, 2, 2, apart=14.0)[0], [[60.0, 60.0], [-50.0, 9.0]]])
    kernel = grouping.density(2.0, least=4, method=method, takes=takes)
    groups = kernel.fit(KEY, x if takes == "features" else similarity.euclidean(x))
    theirs = (
        cluster.DBSCAN(eps=2.0, min_samples=4)
        if method == "dbscan"
        else cluster.HDBSCAN(min_cluster_size=4, copy=True)
    )
    labels = theirs.fit_predict(x)
    np.testing.assert_array_equal(np.asarray(groups.ids) == -1, labels == -1)
    assert (np.asarray(groups.ids)[-2:] == -1).all()
    assert same_partition(groups.ids, labels)


def test_new_clients_out_of_reach_are_noise():
    kernel = grouping.density(1.5, least=3)
    groups = kernel.fit(KEY, np.concatenate([np.zeros((5, 2)), np.full((5, 2), 9.0)]))
    assert kernel.assign(groups, np.array([[1.0, 0.0], [9.0, 8.0], [4.0, 4.0]])).tolist() == [
        int(groups.ids[0]),
        int(groups.ids[5]),
        -1,
    ]


def test_silhouettes_are_scikit_learns(x64):
    x, truth = blobs(0, 40, 3, 3, apart=4.0)
    ids = truth.copy()
    ids[0] = 4  # a group of one; group 3 is empty
    got = count.silhouette(x, jnp.asarray(ids), 5, rows=7)
    np.testing.assert_allclose(got, metrics.silhouette_score(x, ids), rtol=1e-10)
    left_out = np.where(np.arange(40) < 5, -1, ids)
    got = count.silhouette(x, jnp.asarray(left_out), 5, rows=7)
    np.testing.assert_allclose(got, metrics.silhouette_score(x[5:], ids[5:]), rtol=1e-10)
    centers = np.stack([x[truth == g].mean(0) for g in range(3)])
    got = count.simplified_silhouette(x, truth, jnp.asarray(centers))
    np.testing.assert_allclose(got, simplified_silhouette(x, truth, centers), rtol=1e-10)


def test_silhouettes_without_an_answer_are_zero():
    x = np.zeros((6, 2))
    assert count.silhouette(x, jnp.zeros(6, int), 2) == 0
    assert count.silhouette(x, jnp.arange(6) % 2, 2) == 0
    assert count.simplified_silhouette(x, jnp.zeros(6, int), jnp.zeros((2, 2))) == 0


@pytest.mark.parametrize("method", ["gap", "silhouette", "simplified"])
def test_the_number_of_planted_groups_is_found(method):
    x, _ = blobs(1, 48, 4, 2, apart=9.0)
    tried = (1, 2, 3)
    answer = grouping.count_groups(KEY, x, tried=tried, method=method, references=4)
    assert answer.k == 2, answer
    assert answer.tried == tried and answer.scores.shape == answer.errors.shape == (3,)
    assert (answer.errors > 0).all() == (method == "gap")


def test_the_gap_can_say_one_and_is_tibshiranis():
    """A single Gaussian group is one group; the gap at k = 1 is a closed form of variances."""
    x = np.random.default_rng(0).normal(size=(48, 4))
    answer = grouping.count_groups(KEY, x, tried=(1, 2), references=8)
    assert answer.k == 1, answer
    about = x - x.mean(0)
    turned = about @ np.linalg.svd(about, full_matrices=False)[2].T
    even = 48 * ((np.ptp(turned, axis=0)) ** 2 / 12).sum()  # inertia expected of an even box
    np.testing.assert_allclose(answer.scores[0], np.log(even / (about**2).sum()), atol=0.1)


def test_the_eigengap_counts_blocks():
    x, _ = blobs(0, 30, 5, 5, apart=9.0)
    table = similarity.rbf(x, gamma=0.05)
    answer = grouping.eigengap(table)
    assert answer.k == 5, answer
    values = count.eigenvalues(table)
    np.testing.assert_allclose(answer.scores, values[:10] - values[1:11], atol=1e-6)
    mask = np.arange(30) % 5 != 0  # one group away
    assert grouping.eigengap(table, mask).k == 4
    assert grouping.eigengap(np.ones((1, 1))).k == 1
