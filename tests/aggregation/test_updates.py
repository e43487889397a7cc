"""The clients' updates beside an aggregate, and how alike they are."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit

from fedjax_sim.aggregation.grouped import grouped
from fedjax_sim.aggregation.mean import mean
from fedjax_sim.aggregation.tilted import tilted
from fedjax_sim.aggregation.updates import cosines, row_norms, with_updates
from fedjax_sim.core import tree
from fedjax_sim.core.types import Model, Report

K = 5


def reports(weights):
    rng = np.random.default_rng(0)
    params = {
        "w": jnp.asarray(rng.normal(size=(K, 3, 2))),
        "b": jnp.asarray(rng.normal(size=(K, 4))),
    }
    group = jnp.asarray([0, 1, 0, 1, -1], jnp.int32)
    return Report(Model(params, jnp.ones((K, 2))), jnp.asarray(weights), group, {})


def fold(aggregator, said, order):
    """Reports one by one, in two halves that are then added, as two devices do."""

    def whole(said):
        one = tree.shapes(tree.take(said, 0))
        halves = []
        for half in (order[:2], order[2:]):
            acc = aggregator.zero(one, K)
            for i in half:
                acc = aggregator.accumulate(acc, tree.take(said, np.array([i])), jnp.array([i]))
            halves.append(acc)
        return aggregator.finalize(tree.add(*halves))

    return quick_jit(whole)(said)


@pytest.mark.parametrize("base", [mean(), grouped(2)], ids=["mean", "grouped"])
def test_the_base_is_as_it_was_and_the_updates_lie_in_cohort_order(x64, base):
    said = reports([1.0, 2.0, 0.0, 3.0, 0.5])
    spoilt = said.update.params["b"].at[2].set(jnp.nan)  # of weight 0
    said = said._replace(update=said.update._replace(params=said.update.params | {"b": spoilt}))
    order = [4, 2, 0, 3, 1]
    got, want = fold(with_updates(base), said, order), fold(base, said, order)
    for name in ("weight", "n_present"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    np.testing.assert_array_equal(got.update.params["w"], want.update.params["w"])
    heard = np.array([True, True, False, True, True])
    for name, leaf in got.aux["updates"].items():
        np.testing.assert_array_equal(leaf[heard], said.update.params[name][heard])
        np.testing.assert_array_equal(leaf[~heard], 0)


def test_its_cost_is_the_whole_cohorts(x64):
    one = tree.shapes(tree.take(reports(np.ones(K)), 0))
    assert with_updates(mean()).bytes_held(one, K) == 8 * (12 + 10 * K)


def test_a_base_with_a_merge_of_its_own_is_refused():
    with pytest.raises(ValueError, match="addition"):
        with_updates(tilted("loss"))


def test_cosines_are_numpys(x64):
    params = reports(np.ones(K)).update.params
    params = {n: v.at[3].set(0) for n, v in params.items()}
    flat = np.concatenate([np.asarray(v).reshape(K, -1) for v in params.values()], axis=1)
    norms = np.linalg.norm(flat, axis=1)
    np.testing.assert_allclose(row_norms(params), norms, rtol=1e-12)
    want = flat @ flat.T / np.outer(norms, norms).clip(1e-300)
    want[3], want[:, 3] = 0, 0
    np.fill_diagonal(want, 1)
    np.testing.assert_allclose(cosines(params), want, atol=1e-12)
