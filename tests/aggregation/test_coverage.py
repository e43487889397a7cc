"""The mean of every coordinate over its holders."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.aggregation.coverage import Covered, coverage
from fedjax_sim.aggregation.mean import mean
from fedjax_sim.core import tree
from fedjax_sim.core.types import Model, Report

ROWS = jnp.arange(3, dtype=jnp.int32)


def fold(reports, rule, one_by_one=False):
    one = tree.shapes(jax.tree.map(lambda v: v[0], reports))
    acc = rule.zero(one, 3)
    cuts = [slice(i, i + 1) for i in range(3)] if one_by_one else [slice(None)]
    for cut in cuts:
        acc = rule.accumulate(acc, jax.tree.map(lambda v, cut=cut: v[cut], reports), ROWS[cut])
    return rule.finalize(acc)


def report(w, v, weight, held):
    update = Covered(Model({"v": jnp.asarray(v), "w": jnp.asarray(w)}), held)
    return Report(update, jnp.asarray(weight), jnp.zeros(3, jnp.int32), {})


W = np.arange(12.0).reshape(3, 2, 2) + 1
V = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
FIRST = np.array([[True, True], [True, False], [False, False]])
SECOND = np.array([[True, False], [True, True], [True, True]])


def test_each_coordinate_is_the_mean_over_its_holders(x64):
    weight = np.array([1.0, 3.0, 2.0])
    w, v = W.copy(), V.copy()
    w[2], v[2] = np.nan, np.nan  # holds nothing of either
    w[1, 1], w[0, :, 1] = np.nan, np.inf
    held = ((jnp.asarray(FIRST),), (jnp.asarray(FIRST), jnp.asarray(SECOND)))
    for one_by_one in (False, True):
        got = fold(report(w, v, weight, held), coverage(), one_by_one)
        want = [[(1 * 1 + 3 * 5) / 4, 6.0], [3.0, 0.0]]
        np.testing.assert_allclose(got.update.params["w"], want)
        np.testing.assert_allclose(got.update.params["v"], [(1 + 9) / 4, 2.0])
        assert float(got.weight) == 6 and int(got.n_present) == 3
        np.testing.assert_allclose(got.aux["coverage"], 5 / 6)


def test_where_all_hold_all_it_is_the_mean(x64):
    weight = np.array([1.0, 0.0, 2.0])
    w = W.copy()
    w[1] = np.nan  # of weight 0
    whole = report(w, V, weight, (((),), ((), ())))
    got, want = fold(whole, coverage()), fold(whole._replace(update=whole.update.model), mean())
    for a, b in zip(jax.tree.leaves(got.update), jax.tree.leaves(want.update), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)
    assert int(got.n_present) == 2
    nobody = fold(report(w, V, np.zeros(3), (((),), ((), ()))), coverage())
    assert float(nobody.weight) == 0 and not np.any(nobody.update.params["w"])
