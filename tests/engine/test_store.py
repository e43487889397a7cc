"""Client rows: gathered for the cohort, scattered back for those present."""

import jax
import jax.numpy as jnp
import numpy as np
from contracts.table import bound, members
from helpers import assert_trees_equal, cohort_of

from fedjax_sim.engine import store


def test_gather_and_scatter_are_indexing():
    rows = {"a": jnp.arange(10.0).reshape(5, 2), "b": jnp.arange(5)}
    table = cohort_of([3, 0, 4], present=[True, False, True]).members
    taken = store.gather(rows, table)
    np.testing.assert_array_equal(taken["a"], [[6, 7], [0, 1], [8, 9]])
    np.testing.assert_array_equal(taken["b"], [3, 0, 4])
    new = jax.tree.map(lambda v: -v - 1, taken)
    put = store.scatter(rows, table, new)
    np.testing.assert_array_equal(put["a"], [[0, 1], [2, 3], [4, 5], [-7, -8], [-9, -10]])
    np.testing.assert_array_equal(put["b"], [0, 1, 2, -4, -5])


def test_padding_that_repeats_a_present_id_never_overwrites_it():
    rows = jnp.arange(4.0)
    table = cohort_of([2, 2, 2], present=[False, True, False]).members
    put = store.scatter(rows, table, jnp.array([7.0, 9.0, 8.0]))
    np.testing.assert_array_equal(put, [0, 1, 9, 3])


def test_no_rows_stay_no_rows():
    table = cohort_of([1, 0]).members
    assert store.scatter((), table, store.gather((), table)) == ()


def test_rows_of_clients_never_sampled_equal_init(x64):
    made = bound("local_only")
    table = members(made.case, 0, id=[1, 4, 2, 6, 0, 3], present=[1, 1, 1, 0, 0, 0])
    start = made.start(table)
    after, _ = made(start, 3)
    untouched = np.array([0, 3, 5, 6, 7])
    pick = lambda tree, i: jax.tree.map(lambda v: v[i], tree)  # noqa: E731
    assert_trees_equal(pick(after.rows, untouched), pick(start.rows, untouched))
    moved = pick(after.rows.model.params, np.array([1, 2, 4]))
    before = pick(start.rows.model.params, np.array([1, 2, 4]))
    assert (np.abs(moved["w"] - before["w"]).max(axis=(1, 2)) > 1e-3).all()
