"""Every algorithm against the laws that need one program: types, one compile, padding, loops."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.table import CHUNK, NAMES, SILENT, SIZES, TABLE, N, bound, members, told
from helpers import Run, assert_trees_close, assert_trees_equal, softmax_data, softmax_task
from sparing import few

from fedjax_sim.algorithms.registry import ALGORITHMS
from fedjax_sim.core.contracts import Aggregator, Algorithm, ClientUpdate, ServerUpdate
from fedjax_sim.core.types import Context, Info, Model
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import RunState, run_round

KEY = jax.random.key(0)


def test_the_table_holds_every_algorithm_of_the_registry():
    assert set(TABLE) == set(ALGORITHMS)


@pytest.mark.parametrize("name", NAMES)
def test_pieces_have_the_contracts_types(name):
    recipe = TABLE[name].recipe()
    assert isinstance(recipe, Recipe)
    assert recipe.name == name
    parts = recipe.build(**recipe.hyper)
    made = bound(name, bits=32)
    assert isinstance(parts.client(made.run.task), ClientUpdate)
    assert isinstance(parts.aggregator, Aggregator)
    assert isinstance(parts.server, ServerUpdate)
    algorithm = made.run.algorithm
    assert isinstance(algorithm, Algorithm)
    wanted = {
        "init": ["key", "model", "n_clients", "hyper"],
        "step": ["key", "state", "rows", "cohort", "data"],
        "model_of": ["ctx", "state", "row", "data"],
    }
    for field, names in wanted.items():
        assert list(inspect.signature(getattr(algorithm, field)).parameters) == names
    assert (algorithm.global_model is not None) == TABLE[name].shared
    assert algorithm.personal == (TABLE[name].personal or not TABLE[name].shared)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", few([32, 64], 32))
def test_dtypes_are_kept(name, bits):
    """Every leaf of the state comes back with the dtype, shape and strength it went in with."""
    with jax.enable_x64(bits == 64):
        made = bound(name, bits=bits)
        state = jax.eval_shape(lambda: made.start(members(TABLE[name], 0), jitted=False))

        def two_rounds(state):
            after, records = made.compiled.__wrapped__(KEY, state, jnp.int32(2), made.data)
            row = jax.tree.map(lambda v: v[0], after.rows)
            model = made.run.algorithm.model_of(*client_0(made, after.algorithm, row))
            return after, records, model

        after, records, model = jax.eval_shape(two_rounds, state)
        kinds = [
            [(v.shape, v.dtype, getattr(v, "weak_type", False)) for v in jax.tree.leaves(t)]
            for t in (state, after)
        ]
        assert kinds[0] == kinds[1]
        assert not any(weak for _, _, weak in kinds[0])
        assert {v.dtype for v in jax.tree.leaves(model)} == {jnp.dtype(f"float{bits}")}
        assert records["train_loss"].dtype == jnp.dtype(f"float{bits}")


def client_0(made, state, row):
    """What `model_of` is told of the first client."""
    member = jax.tree.map(lambda v: v[0], members(made.case, 0, id=np.arange(made.case.cohort)))
    return Context(KEY, jnp.int32(0), member), state, row, made.data.client(member.id)


NARROW = [(n, 32, "bfloat16") for n in NAMES] + [(n, 64, "float32") for n in ("fedprox", "fedadam")]
# One or two of a family by default.
SEEN = {*("fedadam", "fednova", "scaffold", "fedcm", "qfedavg", "fedem", "fedper", "pfedme")}
SEEN |= {"fedmd", "heterofl", "lora"}


@pytest.mark.parametrize(
    ("name", "bits", "dtype"), few(NARROW, *(n for n in NARROW if n[0] in SEEN), several=True)
)
def test_a_model_narrower_than_the_numbers_stays_narrow(name, bits, dtype):
    """Traced rates are of the default float; parameters and moments keep theirs."""
    with jax.enable_x64(bits == 64):
        case = TABLE[name]
        data, sampler = softmax_data(SIZES, dtype=np.float32), told(case.cohort, N)
        run = Run.of(case.recipe(), softmax_task(dtype=dtype), data, sampler, Plan(2, 1))
        state = run.start(KEY)
        simulate = run.compiled(1).__wrapped__
        after, _ = jax.eval_shape(lambda s: simulate(KEY, s, 1, data), state)
        assert jax.tree.map(lambda v: v.dtype, after) == jax.tree.map(lambda v: v.dtype, state)
        model = state.algorithm.server[0]
        held = jax.tree.leaves(getattr(model, "model", model).params)
        assert {v.dtype for v in held} == {jnp.dtype(dtype)}


ALIKE = ("hypcluster", "ifca_gradient", "fedyogi", "fedadagrad", "lg_fedavg")
"""Variants of ifca, fedadam and fedper that share their kernels; here when slow."""


@pytest.mark.parametrize("name", few(NAMES, *(n for n in NAMES if n not in ALIKE)))
def test_one_compile(x64, name):
    """30 rounds: other cohorts, other numbers, another seed, a shorter last chunk."""
    case, made = TABLE[name], bound(name)
    state = made.start(members(case, 0))
    made(state, CHUNK)
    traced = len(made.traces)
    assert traced > 0
    ends = []
    for seed, hyper in ((0, None), (1, case.hyper)):
        state = made.start(members(case, seed), seed=seed, hyper=hyper)
        for chunk, rounds in enumerate((CHUNK, CHUNK, CHUNK, 30 - 3 * CHUNK)):
            state = state._replace(sampler=members(case, 10 * seed + chunk))
            state, _ = made(state, rounds, seed=seed)
        assert int(state.round) == 30
        ends.append(state)
    assert made.compiled._cache_size() == 1
    assert len(made.traces) == traced
    moved = [
        np.abs(np.asarray(a, float) - np.asarray(b, float)).max()
        for a, b in zip(*(jax.tree.leaves(made.learned(e)) for e in ends), strict=True)
        if a.size
    ]
    assert max(moved) > 1e-4, "the other seed and numbers changed nothing"


EAGER = ("scaffold", "fedrep")  # with rows; in phases; the others, alike, when slow
SLOWLY = [n if n in EAGER else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]


@pytest.mark.parametrize("name", SLOWLY)
def test_compiled_rounds_equal_a_python_loop_without_jit(x64, name):
    """`simulate` (a loop over rounds in one program) against eager `run_round`s."""
    case, made, rounds = TABLE[name], bound(name), 2
    few = {} if case.cohort == 1 else {"id": [3, 1, 4, 0, 2, 6], "present": [0, 1, 1, 0, 0, 0]}
    table = members(case, 4, **few, work=np.full(case.cohort, 0.1 if case.cohort == 1 else 0.6))
    start = made.start(table)
    got, records = made(start, rounds)
    state, losses = start, []
    with jax.disable_jit():
        for _ in range(rounds):
            state, cohort, info = run_round(
                made.run.algorithm, made.run.sampler, KEY, state, made.data
            )
            assert isinstance(state, RunState)
            assert isinstance(info, Info)
            assert_trees_equal(cohort.members, table)
            losses.append(info.scalars["train_loss"])
    assert_trees_close(made.learned(got), made.learned(state), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(records["train_loss"][:rounds], losses, rtol=1e-11)
    assert int(got.round) == int(state.round) == rounds


@pytest.mark.parametrize("name", NAMES)
def test_repeating_a_run_is_bitwise_equal_and_so_is_cutting_it(x64, name):
    case, made = TABLE[name], bound(name)
    start = made.start(members(case, 1))
    once, again = made(start, 5), made(start, 5)
    assert_trees_equal(once, again)
    middle, first = made(start, 2)
    end, second = made(middle, 3)
    assert_trees_equal(end, once[0])
    for field, values in once[1].items():
        joined = np.concatenate([first[field][:2], second[field][:3]])
        np.testing.assert_array_equal(joined, values[:5], err_msg=field)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_cohort_does_not_matter(x64, name):
    case, made = TABLE[name], bound(name)
    table = members(case, 2)
    order = np.random.default_rng(9).permutation(case.cohort)
    turned = jax.tree.map(lambda v: v[order], table)
    a, b = (made(made.start(t), 2)[0] for t in (table, turned))
    assert_trees_close(made.learned(a), made.learned(b), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_absent_members_are_inert(x64, name):
    """Absent clients' data and rows are NaN: nothing moves, and their rows stay bitwise."""
    case, made = TABLE[name], bound(name)
    table = members(case, 3)
    clean, _ = made(made.start(table), 3)
    absent = np.setdiff1d(np.arange(N), np.asarray(table.id)[np.asarray(table.present)])
    data = made.data if name == "centralized" else _poisoned(made.data, absent)
    start = made.start(table)
    rows = jax.tree.map(lambda v: v.at[absent].set(_nan_like(v)), start.rows)
    dirty, records = made(start._replace(rows=rows), 3, data=data)
    assert_trees_equal(dirty.algorithm, clean.algorithm)
    kept = np.setdiff1d(np.arange(N), absent)
    pick = lambda tree, i: jax.tree.map(lambda v: v[i], tree)  # noqa: E731
    assert_trees_equal(pick(dirty.rows, kept), pick(clean.rows, kept))
    assert_trees_equal(pick(dirty.rows, absent), pick(rows, absent))
    assert np.isfinite(records["train_loss"][:3]).all()
    assert records["cohort_present"][0] == int(np.sum(table.present))


def _poisoned(data, clients):
    x = np.array(data.x)
    for i in clients:
        x[int(data.offsets[i]) : int(data.offsets[i]) + SIZES[i]] = np.nan
    return DeviceShards(jnp.asarray(x), data.y, data.offsets, data.sizes, data.longest)


def _nan_like(v):
    return jnp.nan if jnp.issubdtype(v.dtype, jnp.floating) else 7


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_cohort_changes_nothing(x64, name):
    """From a state with moments in it, bitwise; only the round's number moves on."""
    case, made = TABLE[name], bound(name)
    state, _ = made(made.start(members(case, 5)), 2)
    empty = members(case, 6, present=np.zeros(case.cohort, bool))
    after, records = made(state._replace(sampler=empty), 3)
    assert_trees_equal(made.learned(after), made.learned(state))
    assert int(after.round) == 5
    np.testing.assert_array_equal(records["cohort_present"][:3], 0)
    np.testing.assert_array_equal(records["client_steps"][:3], 0)
    assert np.isnan(records["train_loss"][:3]).all()


@pytest.mark.parametrize("name", [n for n in NAMES if TABLE[n].weighted])
def test_a_nan_client_of_weight_zero_is_harmless(x64, name):
    """It takes part, diverges, and neither the model nor another client's row hears of it."""
    case, made = TABLE[name], bound(name)
    ids = np.array([0, SILENT, 2, 3, 4, 6])
    table = members(case, 0, id=ids, present=np.ones(6, bool))
    clean, _ = made(made.start(table), 3)
    dirty, _ = made(made.start(table), 3, data=_poisoned(made.data, [SILENT]))
    assert_trees_equal(dirty.algorithm, clean.algorithm)
    others = np.setdiff1d(np.arange(N), [SILENT])
    for a, b in zip(jax.tree.leaves(dirty.rows), jax.tree.leaves(clean.rows), strict=True):
        np.testing.assert_array_equal(a[others], b[others])
    left_out = members(case, 0, id=ids, present=ids != SILENT, work=table.work)
    alone, _ = made(made.start(left_out), 3)
    assert_trees_close(alone.algorithm, clean.algorithm, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [n for n in NAMES if TABLE[n].shared and not TABLE[n].personal])
def test_model_of_is_the_global_model_where_one_is_shared(x64, name):
    made = bound(name)
    state, _ = made(made.start(members(TABLE[name], 7)), 2)
    shared = made.run.algorithm.global_model(state.algorithm)
    assert isinstance(shared, Model)
    row = jax.tree.map(lambda v: v[0], state.rows)
    assert_trees_equal(made.run.algorithm.model_of(*client_0(made, state.algorithm, row)), shared)
