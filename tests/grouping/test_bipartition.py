"""The best bipartition, against all of them; and the recursion's stopping rules."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from oracles.grouping import best_cut, blobs, same_partition
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from fedjax_sim import grouping
from fedjax_sim.core.checks import InputError
from fedjax_sim.grouping import similarity

K = 7
CUT = quick_jit(grouping.bipartition)
KEY = jax.random.key(0)


def table_of(seed, ties):
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 3, (K, K)) / 2 if ties else rng.uniform(-1, 1, (K, K))
    table = np.triu(values, 1)
    return (table + table.T + np.eye(K)).astype(np.float32)


@hypothesis.given(
    seed=st.integers(0, 2**31 - 1), there=st.integers(0, 2**K - 1), ties=st.booleans()
)
def test_no_bipartition_is_better(seed, there, ties):
    table = table_of(seed, ties)
    mask = (there >> np.arange(K)) & 1 == 1
    spoiled = np.where(mask[:, None] & mask[None], table, np.nan)
    cut = CUT(jnp.asarray(spoiled), jnp.asarray(mask))
    side = np.asarray(cut.side)
    assert not side[~mask].any()
    if mask.sum() < 2:
        assert not side.any() and float(cut.cross_max) == 1.0
        return
    one, two = mask & ~side, mask & side
    assert one[np.argmax(mask)] and two.any()
    assert float(cut.cross_max) == table[np.ix_(one, two)].max()
    assert float(cut.cross_max) == best_cut(table[np.ix_(mask, mask)])


def test_it_is_single_linkage_at_two_groups():
    for seed in range(20):
        table = table_of(seed, ties=False)
        distance = squareform(1 - table.astype(np.float64), checks=False)
        flat = hierarchy.fcluster(hierarchy.linkage(distance, "single"), 2, "maxclust")
        assert same_partition(CUT(table, jnp.ones(K, bool)).side, flat)


def test_vmap_is_the_loop():
    tables = jnp.asarray(np.stack([table_of(s, False) for s in range(5)]))
    masks = jnp.asarray(np.arange(K)[None] != np.arange(5)[:, None])
    together = quick_jit(jax.vmap(grouping.bipartition))(tables, masks)
    for i in range(5):
        one = CUT(tables[i], masks[i])
        np.testing.assert_array_equal(one.side, together.side[i])
        assert one.cross_max == together.cross_max[i]


def test_separation_is_within_minus_across():
    table = jnp.asarray([[1, 0.8, 0.1], [0.8, 1, 0.3], [0.1, 0.3, 1]], jnp.float32)
    np.testing.assert_allclose(
        [
            grouping.separation(table, jnp.asarray(ids))
            for ids in ([0, 0, 1], [False, True, True], [0, -1, 1], [0, 0, 0])
        ],
        [0.8 - 0.3, 0.3 - 0.8, np.inf, np.inf],
        rtol=1e-6,
    )


def test_recursion_stops_where_it_should():
    x, truth = blobs(0, 24, 4, 4, apart=10.0)
    table = similarity.cosine(x)
    fit = lambda **rule: grouping.recursive_bipartition(0.6, **rule).fit(KEY, table)  # noqa: E731
    whole = fit()
    assert same_partition(whole.ids, truth)
    assert whole.ids[0] == 0 and len(whole.info["cross_max"]) == 3
    assert int(fit(most=2).ids.max()) == 1
    # Every cut here leaves groups of 6, 12 or 18.
    assert int(fit(least=7).ids.max()) <= 2
    assert int(grouping.recursive_bipartition(-0.9).fit(KEY, table).ids.max()) == 0


def test_separated_groups_are_never_cut():
    """Sattler's condition: a positive gap, so each group stays whole in every cut."""
    x, truth = blobs(1, 24, 4, 4, apart=10.0)
    table = similarity.cosine(x)
    assert grouping.separation(table, jnp.asarray(truth)) > 0
    for most in (2, 3, 4):
        ids = grouping.recursive_bipartition(1.0, most=most).fit(KEY, table).ids
        assert int(ids.max()) == most - 1
        assert all(len(np.unique(np.asarray(ids)[truth == g])) == 1 for g in range(4))


def test_a_matrix_must_be_square():
    with pytest.raises(InputError, match="K, K"):
        grouping.bipartition(jnp.zeros((2, 3)))
