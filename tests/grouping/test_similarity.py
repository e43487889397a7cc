"""Histograms, sketches of features and losses, similarities: against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from oracles.grouping import histograms
from scipy.spatial.distance import cdist, jensenshannon

from fedjax_sim import grouping
from fedjax_sim.core.checks import InputError
from fedjax_sim.grouping import similarity

OFFSETS, SIZES = np.array([4, 0, 9, 0, 9, 30]), np.array([5, 3, 0, 0, 20, 10])


def test_histograms_count_each_clients_labels():
    """Clients in any order, with gaps between them, empty ones anywhere, labels out of range."""
    y = np.random.default_rng(0).integers(-1, 6, 45)
    expected = histograms(y, OFFSETS, SIZES, 5)
    got = {f: similarity.label_histograms(y, OFFSETS, SIZES, 5, form=f) for f in ("counts", "sqrt")}
    np.testing.assert_array_equal(got["counts"], expected)
    shares = expected / np.maximum(expected.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(got["sqrt"], np.sqrt(shares), rtol=1e-6)
    inside = quick_jit(lambda *a: grouping.label_histograms(*a, 5))(y, OFFSETS, SIZES)
    np.testing.assert_allclose(inside, shares, rtol=1e-6)
    assert not inside[2].any()


def test_every_token_counts():
    y = np.random.default_rng(0).integers(0, 7, (45, 3))
    got = similarity.label_histograms(y, OFFSETS, SIZES, 7, form="counts")
    np.testing.assert_array_equal(got, histograms(y, OFFSETS, SIZES, 7))


def test_clients_outside_the_data_are_refused():
    with pytest.raises(InputError, match="within the 45 examples"):
        similarity.label_histograms(np.zeros(45, int), OFFSETS + 10, SIZES, 5)
    with pytest.raises(InputError, match="offsets"):
        similarity.label_histograms(np.zeros(45, int), OFFSETS[:2], SIZES, 5)
    with pytest.raises(InputError, match="form"):
        similarity.label_histograms(np.zeros(45, int), OFFSETS, SIZES, 5, form="log")


def test_feature_sketches_are_sketches_of_means():
    x = np.random.default_rng(0).normal(size=(45, 2, 10)).astype(np.float32)
    key = jax.random.key(0)
    got = grouping.feature_sketches(key, x, OFFSETS, SIZES, 8, second=True)
    rows = [x[o : o + s].reshape(s, 20) for o, s in zip(OFFSETS, SIZES, strict=True)]
    means = np.stack([r.mean(0) if len(r) else np.zeros(20) for r in rows]).astype(np.float32)
    squares = np.stack([(r**2).mean(0) if len(r) else np.zeros(20) for r in rows])
    squares = squares.astype(np.float32)
    expected = [grouping.sketch_rows(key, m, 8) for m in (means, squares)]
    np.testing.assert_allclose(got, jnp.concatenate(expected, axis=1), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def shares():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(6, 0.3), 12)
    p[p < 0.02] = 0
    return p / p.sum(1, keepdims=True)


def test_similarities_are_scipys(shares, x64):
    p = jnp.asarray(shares)
    close = lambda got, want: np.testing.assert_allclose(got, want, atol=1e-7)  # noqa: E731
    close(similarity.cosine(p), 1 - cdist(shares, shares, "cosine"))
    close(similarity.euclidean(p), -cdist(shares, shares))
    close(similarity.rbf(p, gamma=2.0), np.exp(-2 * cdist(shares, shares, "sqeuclidean")))
    root = np.sqrt(shares)
    close(similarity.hellinger(p), 1 - cdist(root, root, "sqeuclidean") / 2)
    divergence = [[jensenshannon(a, b, base=2) ** 2 for b in shares] for a in shares]
    close(similarity.jensen_shannon(p, rows=5), 1 - np.array(divergence))


def test_loss_landscapes_of_like_clients_are_parallel(x64):
    """Harder data move all losses of a client; only the shape over the probes is compared."""
    rng = np.random.default_rng(0)
    shape = rng.normal(size=(2, 9))
    level, scale = rng.uniform(1, 5, 6), rng.uniform(0.5, 2, 6)
    truth = np.arange(6) % 2
    losses = level[:, None] + scale[:, None] * shape[truth]
    features = similarity.loss_landscape(losses)
    np.testing.assert_allclose(features.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(similarity.cosine(features), np.corrcoef(losses), atol=1e-12)
    same = truth[:, None] == truth[None]
    np.testing.assert_allclose(np.asarray(similarity.cosine(features))[same], 1)


def test_loss_similarity_is_the_overlap_of_preferences():
    losses = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    p = np.exp(-losses / 0.5) / np.exp(-losses / 0.5).sum(1, keepdims=True)
    expected = np.sqrt(p) @ np.sqrt(p).T
    np.testing.assert_allclose(similarity.loss_similarity(losses, temperature=0.5), expected, 1e-5)


def test_zero_rows_are_like_nothing_and_nan_stays_visible():
    x = np.array([[0.0, 0.0], [1.0, 0.0], [np.nan, 1.0]])
    got = np.asarray(similarity.cosine(x))
    assert got[0, 1] == 0 and got[0, 0] == 0 and got[1, 1] == 1
    assert np.isnan(got[2, 2])
    with pytest.raises(InputError, match="features"):
        similarity.cosine(np.zeros(3))
