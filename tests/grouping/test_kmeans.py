"""k-means and its variants against scikit-learn, NumPy loops and exhaustive search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from oracles.grouping import best_sizes, blobs, inertia, is_stable, lloyd, same_partition, sculley
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from fedjax_sim import grouping
from fedjax_sim.core.checks import InputError
from fedjax_sim.grouping import lloyd as passes
from fedjax_sim.grouping import soft
from fedjax_sim.grouping.balanced import _transport, capped
from fedjax_sim.grouping.kmeans import descend
from fedjax_sim.grouping.minibatch import absorb

KEY = jax.random.key(3)
N, D, K = 80, 3, 4
ALL = jnp.ones(N, bool)


def overlapping(seed):
    return blobs(seed, N, D, K - 1, apart=2.0)[0]


@pytest.fixture(scope="module")
def from_start():
    return quick_jit(lambda x, c, m: descend(x, m, c, tolerance=0.0, iterations=300))


@pytest.mark.parametrize("seed", range(5))
def test_lloyd_from_given_centers_is_scikit_learns(seed, from_start, x64):
    x = overlapping(seed)
    start = x[:K]
    found = from_start(x, start, ALL)
    theirs = KMeans(K, init=start, n_init=1, tol=0, max_iter=300, algorithm="lloyd").fit(x)
    np.testing.assert_array_equal(found.seen.ids, theirs.labels_)
    np.testing.assert_array_equal(found.seen.ids, lloyd(x, start))
    np.testing.assert_allclose(found.centers, theirs.cluster_centers_, rtol=1e-10)
    np.testing.assert_allclose(found.seen.square.sum(), theirs.inertia_, rtol=1e-10)
    assert int(found.iterations) == theirs.n_iter_


BEST_OF_8 = quick_jit(lambda x: grouping.kmeans(K, restarts=8).fit(KEY, x))


@pytest.mark.parametrize("seed", range(3))
def test_restarts_reach_scikit_learns_best_inertia(seed):
    """On overlapping groups ours is within 1 % of the best of 20 scikit-learn seedings."""
    x = overlapping(seed)
    groups = BEST_OF_8(x)
    best = KMeans(K, n_init=20, random_state=0).fit(x).inertia_
    assert float(groups.info["inertia"]) < 1.01 * best
    np.testing.assert_allclose(groups.info["inertia"], inertia(x, np.asarray(groups.ids)), 1e-3)
    for g in range(K):
        mean = x[np.asarray(groups.ids) == g].mean(0)
        np.testing.assert_allclose(groups.info["centers"][g], mean, rtol=0.05, atol=0.05)


def test_an_offset_costs_no_digits():
    """Distances in float32 of points 1e3 from the origin and 0.1 apart."""
    x, truth = blobs(0, N, D, K, apart=12.0)
    groups = BEST_OF_8((0.01 * x + 1e3).astype(np.float32))
    assert same_partition(groups.ids, truth)


def test_an_empty_group_moves_to_the_farthest_client(from_start):
    x = np.array([[0.0], [0.1], [10.0], [10.1], [30.0]] * 16, np.float32)
    start = np.array([[0.0], [10.0], [1e4], [2e4]], np.float32)  # nobody is near the last two
    found = from_start(x, start, ALL)
    sizes = np.bincount(np.asarray(found.seen.ids), minlength=K)
    assert (sizes > 0).all(), sizes
    assert len(np.unique(np.asarray(found.seen.ids)[x[:, 0] == 30])) == 1


def test_every_block_of_rows_is_seen_once(monkeypatch):
    """Seven rows a block, the last block overlapping the one before."""
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(45, 2)).astype(np.float32), rng.random(45) < 0.8
    x[~mask] = 0
    centers = x[:K]
    monkeypatch.setattr(passes, "rows_per_block", lambda n, d: 7)
    seen = quick_jit(passes.look)(x, mask, centers)
    square = ((x[:, None] - centers[None]) ** 2).sum(2)
    ids = np.where(mask, square.argmin(1), 0)
    np.testing.assert_array_equal(seen.ids, ids)
    np.testing.assert_allclose(seen.square, np.where(mask, square.min(1), 0), atol=1e-5)
    one_hot = (ids[None] == np.arange(K)[:, None]) & mask[None]
    np.testing.assert_array_equal(seen.counts, one_hot.sum(1))
    np.testing.assert_allclose(seen.sums, one_hot @ x, atol=1e-5)
    seeds = np.asarray(quick_jit(passes.plus_plus, static_argnums=3)(KEY, x, mask, K))
    there = {tuple(row) for row in x[mask]}
    assert len({tuple(row) for row in seeds} & there) == K


def test_seeds_are_drawn_by_squared_distance():
    """Two groups of points far apart: the second seed is nearly always in the other."""
    x = np.concatenate([np.zeros((40, 1)), np.full((40, 1), 100.0)]).astype(np.float32)
    x = jnp.asarray(x + np.linspace(0, 1, 80, dtype=np.float32)[:, None])
    seeds = quick_jit(jax.vmap(lambda k: passes.plus_plus(k, x, ALL, 2)))(
        jax.random.split(KEY, 200)
    )
    assert ((np.asarray(seeds)[:, :, 0] > 50).sum(1) == 1).all()
    first = np.asarray(seeds)[:, 0, 0] > 50
    assert abs(first.mean() - 0.5) < 5 * 0.5 / np.sqrt(200)


def test_spherical_looks_at_directions_only():
    rng = np.random.default_rng(0)
    truth = np.arange(N) % 3
    x = np.eye(3)[truth] + 0.05 * rng.normal(size=(N, 3))
    x = x * rng.uniform(0.01, 100, (N, 1))
    x[5] = 0.0
    groups = quick_jit(grouping.kmeans(3, metric="cosine").fit)(KEY, x)
    ids = np.asarray(groups.ids)
    rest = np.arange(N) != 5
    assert same_partition(ids[rest], truth[rest])
    np.testing.assert_allclose(np.linalg.norm(groups.info["centers"], axis=1), 1, rtol=1e-5)
    unit = x[rest] / np.linalg.norm(x[rest], axis=1, keepdims=True)
    cosines = (unit * np.asarray(groups.info["centers"])[ids[rest]]).sum(1)
    np.testing.assert_allclose(groups.info["inertia"], (2 - 2 * cosines).sum(), rtol=1e-4)


def test_batches_are_absorbed_as_sculley_says(x64):
    rng = np.random.default_rng(0)
    x = overlapping(0)
    batches = [x[rng.integers(0, N, 16)] for _ in range(6)]
    state = (jnp.asarray(x[:K]), jnp.zeros(K))
    step = quick_jit(absorb)
    for rows in batches:
        state = step(*state, rows)
    np.testing.assert_allclose(state[0], sculley(x[:K], batches), rtol=1e-12)
    assert int(state[1].sum()) == 6 * 16


@pytest.mark.parametrize(("least", "most"), [(0, 2), (2, 3), (1, 6), (2, 2)])
def test_the_exact_assignment_is_the_cheapest(least, most):
    rng = np.random.default_rng(least + most)
    cost = rng.uniform(size=(6, 3))
    ids = _transport(cost, least, most)
    counts = np.bincount(ids, minlength=3)
    assert counts.min() >= least and counts.max() <= most
    np.testing.assert_allclose(cost[np.arange(6), ids].sum(), best_sizes(cost, least, most))


@pytest.mark.parametrize("exact", [True, False])
def test_sizes_keep_their_bounds(exact):
    x = blobs(0, N, D, 2, apart=10.0)[0]
    x = x[np.argsort(np.arange(N) % 2)][: N - 20]  # 40 and 20
    bounds = {"least": 15, "most": 25} if exact else {"most": 25}
    fit = grouping.balanced(3, exact=exact, **bounds).fit
    groups = fit(KEY, x) if exact else quick_jit(fit)(KEY, x)
    sizes = np.asarray(groups.info["sizes"])
    assert sizes.sum() == 60 and sizes.max() <= 25 and (not exact or sizes.min() >= 15)
    np.testing.assert_allclose(groups.info["inertia"], inertia(x, np.asarray(groups.ids)), 1e-4)
    free = KMeans(3, n_init=20, random_state=0).fit(x).inertia_
    assert free <= float(groups.info["inertia"]) * 1.0001 < 3 * free


def test_capped_assignment_is_stable():
    run = quick_jit(capped, static_argnums=2)
    for seed in range(10):
        cost = np.random.default_rng(seed).uniform(size=(30, 4)).astype(np.float32)
        ids = np.asarray(run(cost, jnp.ones(30, bool), 8))
        assert np.bincount(ids, minlength=4).max() <= 8 and (ids >= 0).all()
        assert is_stable(cost, ids, 8)
    crowded = np.asarray(run(cost, jnp.ones(30, bool), 7))
    assert (crowded < 0).sum() == 2


def test_bounds_that_cannot_be_kept_are_refused():
    x = np.zeros((6, 1))
    for bounds, word in (({"most": 1}, "cannot hold"), ({"least": 4}, "cannot give")):
        with pytest.raises(InputError, match=word):
            grouping.balanced(2, **bounds).fit(KEY, x)
    with pytest.raises(InputError, match="exact=True"):
        grouping.balanced(2, least=1, most=3, exact=False)
    with pytest.raises(InputError, match="is needed"):
        grouping.balanced(2, exact=False)


@pytest.fixture(scope="module")
def fitted():
    """Three spherical groups of different widths, ours and scikit-learn's from our start."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        truth = np.arange(300) % 3
        x = (
            np.eye(3)[truth] * 4
            + rng.normal(size=(300, 3)) * np.array([0.5, 1.0, 1.5])[truth, None]
        )
        kernel = grouping.mixture(3, iterations=500, tolerance=1e-12)
        groups = quick_jit(kernel.fit)(KEY, x)
        info = {n: np.asarray(v) for n, v in groups.info.items()}
    theirs = GaussianMixture(
        3,
        covariance_type="spherical",
        tol=1e-12,
        reg_covar=0,
        max_iter=500,
        weights_init=info["shares"],
        means_init=info["centers"],
        precisions_init=1 / info["variances"],
    ).fit(x)
    return x, truth, np.asarray(groups.ids), info, theirs


def test_the_mixture_is_a_fixed_point_of_scikit_learns(fitted):
    x, _, ids, info, theirs = fitted
    np.testing.assert_allclose(info["centers"], theirs.means_, rtol=1e-5)
    np.testing.assert_allclose(info["variances"], theirs.covariances_, rtol=1e-5)
    np.testing.assert_allclose(info["shares"], theirs.weights_, rtol=1e-5)
    np.testing.assert_allclose(info["log_likelihood"], theirs.score(x), rtol=1e-8)
    np.testing.assert_allclose(info["memberships"], theirs.predict_proba(x), atol=1e-5)
    np.testing.assert_array_equal(ids, theirs.predict(x))


def test_the_mixture_finds_the_widths(fitted):
    _, truth, ids, info, _ = fitted
    order = [int(np.bincount(ids[truth == t]).argmax()) for t in range(3)]
    np.testing.assert_allclose(np.sqrt(info["variances"])[order], [0.5, 1.0, 1.5], rtol=0.12)
    # Clients between the groups are the undecided ones.
    undecided = np.asarray(soft.entropy(jnp.asarray(info["memberships"])))
    best = info["memberships"].max(1)
    assert undecided[best > 0.99].max() < 0.1 < undecided[best < 0.7].min()


def test_soft_memberships():
    x, centers = np.array([[0.0], [1.0]]), jnp.asarray([[0.0], [2.0]])
    got = soft.softmax_distances(x, centers, temperature=2.0)
    e = np.exp(-2.0)
    np.testing.assert_allclose(got, [[1 / (1 + e), e / (1 + e)], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(soft.entropy(got)[1], 1, rtol=1e-6)
    np.testing.assert_array_equal(soft.entropy(jnp.ones((2, 1))), [0, 0])
    losses = np.array([[0.1, 0.4], [2.0, 0.5]])
    got = soft.from_losses(losses, np.array([0.25, 0.75]), examples=np.array([3, 1]))
    odds = np.array([0.25, 0.75]) * np.exp(-losses * np.array([[3], [1]]))
    np.testing.assert_allclose(got, odds / odds.sum(1, keepdims=True), rtol=1e-6)


def test_rows_of_zeros_take_no_group_from_those_that_have_a_direction():
    x = jnp.array([[1.0, 0.0]] * 3 + [[0.6, 0.8]] * 3 + [[0.0, 0.0]] * 2)
    found = grouping.kmeans(2, metric="cosine").fit(jax.random.key(0), x)
    ids = np.asarray(found.ids)
    assert len(set(ids[:3])) == len(set(ids[3:6])) == 1 and ids[0] != ids[3]
    np.testing.assert_allclose(np.linalg.norm(found.info["centers"], axis=1), 1, rtol=1e-6)
    assert list(ids[6:]) == [0, 0]
