"""Random projections: linear, unbiased within a stated bound, the same from the same key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit

from fedjax_sim import grouping
from fedjax_sim.core.checks import InputError

DIM, DRAWS = 16, 2000


def tree_of(flat):
    return {"a": flat[:37].reshape(37, 1), "b": (flat[37:40], flat[40:].reshape(2, -1))}


@pytest.fixture(scope="module")
def drawn():
    """Two vectors and their sketches under many keys, `[DRAWS, 2, DIM]`."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=200) * np.where(np.arange(200) % DIM == 3, 5.0, 0.3)  # one column heavy
    b = 0.5 * a + rng.normal(size=200)
    pair = jnp.asarray(np.stack([a, b]), jnp.float32)
    sketch = jax.vmap(lambda key, v: grouping.sketch_tree(key, tree_of(v), DIM), (None, 0))
    keys = jax.random.split(jax.random.key(7), DRAWS)
    return np.stack([a, b]), np.asarray(quick_jit(jax.vmap(sketch, (0, None)))(keys, pair))


def test_inner_products_are_kept_on_average(drawn):
    """Mean within 5 standard errors; variance at most the count sketch's bound (and 15 %)."""
    pair, sketches = drawn
    gram = pair @ pair.T
    for i, j in ((0, 0), (0, 1), (1, 1)):
        products = (sketches[:, i] * sketches[:, j]).sum(1)
        bound = np.sqrt((gram[i, i] * gram[j, j] + gram[i, j] ** 2) / DIM)
        assert abs(products.mean() - gram[i, j]) < 5 * bound / np.sqrt(DRAWS)
        assert products.std() < 1.15 * bound


def test_every_bucket_is_used_alike(drawn):
    """Energy spreads evenly although one column in sixteen holds nearly all of it."""
    pair, sketches = drawn
    energy = (sketches[:, 0] ** 2).mean(0)
    expected = (pair[0] ** 2).sum() / DIM
    assert np.abs(energy / expected - 1).max() < 0.35


def test_it_is_linear_and_keyed(x64):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 100))
    one, other = jax.random.key(0), jax.random.key(1)
    sketch = quick_jit(lambda key, v: grouping.sketch_tree(key, {"a": v[:60], "b": v[60:]}, DIM))
    left = sketch(one, 2 * a - 3 * b)
    assert left.dtype == jnp.float64
    np.testing.assert_allclose(left, 2 * sketch(one, a) - 3 * sketch(one, b), atol=1e-12)
    assert not np.allclose(sketch(one, a), sketch(other, a))
    outside = grouping.sketch_tree(one, {"a": a[:60], "b": a[60:]}, DIM)
    np.testing.assert_allclose(sketch(one, a), outside, atol=1e-12)


def test_rows_are_sketched_like_single_updates():
    x = np.random.default_rng(2).normal(size=(3, 59)).astype(np.float32)
    rows = grouping.sketch_rows(jax.random.key(0), x, DIM)
    for row, v in zip(rows, x, strict=True):
        one = grouping.sketch_tree(jax.random.key(0), jnp.asarray(v), DIM)
        np.testing.assert_allclose(row, one, rtol=1e-5, atol=1e-6)


def test_normalized_sketches_have_norm_one_and_zeros_stay():
    x = jnp.arange(1.0, 60.0)
    sketch = grouping.sketch_tree(jax.random.key(0), x, DIM, normalize=True)
    np.testing.assert_allclose(jnp.linalg.norm(sketch), 1, rtol=1e-6)
    zero = grouping.sketch_tree(jax.random.key(0), 0 * x, DIM, normalize=True)
    np.testing.assert_array_equal(zero, np.zeros(DIM))


def test_each_entry_lands_in_one_bucket_with_its_size():
    """The matrix of the projection has one entry of size 1 a column; whole numbers are left out."""
    tree = {"w": jnp.zeros(50), "steps": jnp.arange(3)}
    columns = []
    for i in range(50):
        one = tree | {"w": tree["w"].at[i].set(1.0)}
        columns.append(np.asarray(grouping.sketch_tree(jax.random.key(3), one, DIM)))
    matrix = np.stack(columns)
    np.testing.assert_array_equal(np.abs(matrix).sum(1), np.ones(50))
    assert np.abs(matrix).max() == 1 and 10 < (matrix < 0).sum() < 40


def test_nothing_to_sketch_is_refused():
    with pytest.raises(InputError, match="floating leaf"):
        grouping.sketch_tree(jax.random.key(0), {"n": jnp.arange(3)}, 4)
    with pytest.raises(InputError, match="dim"):
        grouping.sketch_tree(jax.random.key(0), jnp.ones(3), 0)
