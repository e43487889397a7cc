"""Pools of rows, cohorts foretold, rows in host memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers import cohort_of, quick_jit

from fedjax_sim.core.types import Cohort, Member
from fedjax_sim.engine import store
from fedjax_sim.engine.ahead import NONE, foretells, make_ahead
from fedjax_sim.engine.simulate import draw_cohort
from fedjax_sim.engine.store_host import HostRows
from fedjax_sim.sampling.uniform import uniform, with_stragglers


def pool() -> store.Pool:
    ids = jnp.array([1, 4, 7, store.NOBODY], jnp.int32)
    return store.Pool(ids, {"a": jnp.arange(8.0).reshape(4, 2)})


def test_a_pool_is_indexed_by_its_ids():
    table = cohort_of([7, 1], present=[True, True]).members
    np.testing.assert_array_equal(store.gather(pool(), table)["a"], [[4, 5], [0, 1]])
    put = store.scatter(pool(), table, {"a": jnp.array([[-1.0, -2.0], [-3.0, -4.0]])})
    np.testing.assert_array_equal(put.rows["a"], [[-3, -4], [2, 3], [-1, -2], [6, 7]])
    np.testing.assert_array_equal(put.ids, pool().ids)


def test_who_is_absent_or_lacks_a_row_writes_none():
    table = cohort_of([9, 5, 4, 1], present=[True, True, False, True]).members
    assert store.missing(pool(), table) == 2
    put = store.scatter(pool(), table, {"a": jnp.full((4, 2), 9.0)})
    np.testing.assert_array_equal(put.rows["a"], [[9, 9], [2, 3], [4, 5], [6, 7]])


def test_foretold_cohorts_are_those_of_the_rounds():
    sampler, key = with_stragglers(uniform(4, 30), 0.5, drop=True), jax.random.key(3)
    ahead = quick_jit(make_ahead(sampler, 3))
    state, ids = ahead(key, (), jnp.int32(5), jnp.int32(2))
    assert state == ()
    draw = quick_jit(lambda i: draw_cohort(sampler, key, (), i)[1].members.id)
    for i in range(2):
        np.testing.assert_array_equal(ids[i], draw(jnp.int32(5 + i)))
    assert (np.asarray(ids[2]) == NONE).all()


def test_a_sampler_that_looks_at_results_foretells_nothing():
    key, blind = jax.random.key(0), uniform(2, 6)
    assert foretells(blind, key, 6)
    assert foretells(with_stragglers(blind, 0.5), key, 6)
    greedy = blind._replace(
        init=lambda n: jnp.zeros(n), observe=lambda s, c, info: s.at[0].add(info.scalars["loss"])
    )
    counts = blind._replace(init=lambda n: jnp.zeros(()), observe=lambda s, c, info: s + 1)
    seen = blind._replace(
        init=lambda n: jnp.zeros(n), observe=lambda s, c, info: s.at[c.members.id].set(1)
    )
    for sampler in (greedy, counts, seen):
        assert not foretells(sampler, key, 6)

    def sample(key: jax.Array, state: jax.Array, i: jax.Array) -> tuple[jax.Array, Cohort]:
        ids = (jnp.arange(2, dtype=jnp.int32) + state) % 6
        member = Member(ids, jnp.ones(2, bool), jnp.zeros_like(ids), jnp.ones(2))
        return state + 1, Cohort(i, member)

    turn = blind._replace(init=lambda n: jnp.int32(0), sample=sample)
    assert foretells(turn, key, 6)
    state, ids = make_ahead(turn, 4)(key, jnp.int32(0), jnp.int32(0), jnp.int32(4))
    np.testing.assert_array_equal(ids, [[0, 1], [1, 2], [2, 3], [3, 4]])
    assert state == 4


def test_host_rows_are_copied_both_ways():
    for wide in (3, 5000):  # NumPy's indexing, and one copy a row
        shape = {"a": jax.ShapeDtypeStruct((wide,), np.float32), "b": jnp.zeros((), jnp.int32)}
        rows = HostRows(shape, 9)
        drawn = np.random.default_rng(0).normal(size=(4, wide))
        new: list[Any] = [drawn.astype(np.float32), np.arange(4, dtype=np.int32)]
        rows.write(np.array([8, 2]), new, np.array([3, 1]))
        assert np.flatnonzero(rows.written).tolist() == [2, 8]
        back = [np.zeros_like(v) for v in new]
        rows.read(np.array([2, 8]), back, np.array([0, 2]))
        np.testing.assert_array_equal(back[0][[0, 2]], new[0][[1, 3]])
        assert back[1].tolist() == [1, 0, 3, 0]
