"""The drift panel against the definitions, over all layouts, and harmless to training."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sparing import few

from fedjax_sim.aggregation.collect import collect
from fedjax_sim.aggregation.mean import mean
from fedjax_sim.aggregation.robust import coordinate_median
from fedjax_sim.algorithms import fedavg, fedavgm, fednova, local_only, scaffold
from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import ClientUpdate
from fedjax_sim.core.types import Model, Moment, Report
from fedjax_sim.diagnostics.drift import drift_panel, drift_watch, params_of
from fedjax_sim.diagnostics.drift_statistics import CAP, capped, is_due
from fedjax_sim.engine.bind import bind
from fedjax_sim.engine.compose import compose
from fedjax_sim.engine.mesh import make_mesh, place, replicated
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import init_run, make_simulate
from fedjax_sim.experiment.records import chunk_records
from fedjax_sim.server.optimizer import server_opt
from tests.helpers import (
    Script,
    assert_trees_close,
    cohort_of,
    quick_jit,
    script,
    shards,
    softmax_data,
    softmax_task,
)
from tests.oracles import drift as oracle

P = 7
PLANS = [Plan(1, 1), Plan(3, 1), Plan(2, 4)]


def vector(model: Any) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(model)])


def reporting(updates: np.ndarray, weights: np.ndarray) -> Any:
    """Clients that report what is written down, after one step that does nothing."""

    def build(task: Any) -> ClientUpdate:
        del task

        def finish(ctx, work, received, row, data):
            del work, received, data
            u = jnp.asarray(updates)[ctx.member.id]
            update = Model({"a": u[:6].reshape(2, 3), "b": u[6:]})
            weight = jnp.asarray(weights)[ctx.member.id]
            return Report(update, weight, jnp.zeros((), jnp.int32), {}), row

        return ClientUpdate(
            init=lambda key, model: (),
            steps=lambda ctx, data: 1 + ctx.member.id % 3,
            start=lambda ctx, received, row, data: (),
            step=lambda ctx, t, work, received, data: work,
            finish=finish,
        )

    return build


def one_round(
    updates: np.ndarray,
    weights: Any,
    *,
    present: Any = None,
    plan: Plan = Plan(),  # noqa: B008
    groups: Any = None,
    aggregator: Any = None,
    every: int = 1,
    round_index: int = 0,
) -> tuple[dict[str, Any], Any]:
    """The values of one round of reports that are given, and its trees."""
    n = len(updates)
    dtype = jnp.result_type(float)
    updates, weights = np.asarray(updates, dtype), np.asarray(weights, dtype)
    recipe = compose(reporting(updates, weights), aggregator or mean(), server_opt(optax.sgd(1.0)))
    mesh = make_mesh(plan.devices)
    panel = drift_panel(every=every, groups=groups)
    algorithm = bind(recipe, softmax_task(), plan, mesh, panel=panel)
    model = Model({"a": jnp.zeros((2, 3)), "b": jnp.zeros(1)})
    state = algorithm.init(jax.random.key(0), model, n)
    data = shards(np.zeros((n, 1)), np.zeros(n), np.ones(n, int))
    cohort = cohort_of(range(n), present, round_index=round_index)
    step = quick_jit(algorithm.step, out_shardings=replicated(mesh))
    _, _, info = step(*place((jax.random.key(0), state, (), cohort, data), mesh))
    return {k: np.asarray(v) for k, v in info.scalars.items() if "drift" in k}, info.trees


def a_case(seed: int, n: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Updates that share something, weights with zeros on NaN rows, who is present, groups."""
    rng = np.random.default_rng(seed)
    updates = rng.normal(size=(n, P)) * rng.uniform(0.2, 3, (n, 1)) + rng.normal(size=P)
    weights = rng.integers(1, 20, n).astype(float)
    weights[2], updates[2] = 0, np.nan
    updates[5] = 0
    present = np.ones(n, bool)
    present[7] = False
    updates[7] = np.inf
    return updates, weights, present, np.arange(n) % 3


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("rule", ["mean", "median"])
def test_every_value_is_that_of_its_definition(x64: None, plan: Plan, rule: str) -> None:
    updates, weights, present, _ = a_case(0)
    aggregator = collect(coordinate_median()) if rule == "median" else None
    got, _ = one_round(updates, weights, present=present, plan=plan, aggregator=aggregator)
    want = oracle.drift(updates, weights * present)
    assert got.pop("drift_measured")
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_groups_are_those_of_their_definition(x64: None, plan: Plan) -> None:
    updates, weights, present, groups = a_case(1)
    updates[5] += 1
    got, trees = one_round(updates, weights, present=present, plan=plan, groups=groups)
    want = oracle.drift(updates, weights * present)
    want |= oracle.by_group(updates, weights * present, groups)
    assert got.pop("drift_measured") and got.pop("drift_per_group_measured")
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    assert trees["drift_directions"].total["a"].shape == (3, 2, 3)


def test_single_precision_is_good_to_1e_5() -> None:
    updates, weights, present, _ = a_case(2)
    got, _ = one_round(updates, weights, present=present)
    for name, value in oracle.drift(updates, weights * present).items():
        np.testing.assert_allclose(got[name], value, rtol=2e-5, err_msg=name)


def test_identical_orthogonal_and_opposite_clients() -> None:
    alike = np.tile(np.arange(1.0, P + 1), (6, 1))
    got, _ = one_round(alike, np.ones(6))
    assert got["drift_dispersion_relative"] < 1e-5
    np.testing.assert_allclose(got["drift_cosine"], 1, atol=1e-6)
    np.testing.assert_allclose(got["drift_diversity"], 1 / 6, rtol=1e-6)
    np.testing.assert_allclose(got["drift_dissimilarity"], 1, rtol=1e-6)
    got, _ = one_round(2 * np.eye(P)[:5], np.ones(5))
    np.testing.assert_allclose(got["drift_cosine"], 0, atol=1e-6)
    np.testing.assert_allclose(got["drift_diversity"], 1, rtol=1e-6)
    np.testing.assert_allclose(got["drift_dissimilarity"], 5, rtol=1e-6)
    np.testing.assert_allclose(got["drift_client_norm"], 2, rtol=1e-6)
    got, _ = one_round(np.stack([alike[0], -alike[0]]), np.ones(2))
    np.testing.assert_allclose(got["drift_cosine"], -1, rtol=1e-6)
    assert got["drift_mean_norm"] == 0 and got["drift_diversity"] == pytest.approx(CAP)
    assert all(np.isfinite(v) for v in got.values())


def test_two_groups_at_odds_explain_all() -> None:
    one = np.arange(1.0, P + 1)
    got, _ = one_round(np.stack([one, -one, one, -one]), np.ones(4), groups=[0, 1, 0, 1])
    np.testing.assert_allclose(got["drift_per_group_share"], 1, atol=1e-5)
    np.testing.assert_allclose(got["drift_per_group_cosine"], 1, atol=1e-6)
    np.testing.assert_allclose(got["drift_per_group_between_min"], -1, atol=1e-6)
    alone, _ = one_round(np.stack([one, -one]), np.ones(2), groups=[0, 1])
    assert alone["drift_measured"] and not alone["drift_per_group_measured"]


@pytest.mark.parametrize("weights", [[0, 0, 0], [2, 0, 0]])
def test_fewer_than_two_reports_are_no_reading(weights: list[float]) -> None:
    got, _ = one_round(np.full((3, P), np.nan) if not any(weights) else np.ones((3, P)), weights)
    assert not got["drift_measured"]
    assert all(np.isfinite(v) for v in got.values())


def test_rounds_that_are_due() -> None:
    due = [r + 1 for r in range(25) if bool(is_due(jnp.int32(r), 10))]
    assert due == [1, 10, 20]
    got, _ = one_round(np.eye(P)[:3], np.ones(3), every=4, round_index=2)
    assert not got["drift_measured"] and not any(got.values())


def test_a_ratio_never_leaves_its_bounds() -> None:
    values = [capped(jnp.float32(a), jnp.float32(b)) for a, b in ((3, 2), (0, 0), (1, 0), (2, -5))]
    np.testing.assert_allclose(values, [1.5, 0, CAP, CAP], rtol=1e-6)


# -- whole runs --


def run(
    recipe: Any,
    *,
    every: int = 0,
    plan: Plan = Plan(),  # noqa: B008
    groups: Any = None,
    rounds: int = 12,
) -> tuple[Any, dict[str, np.ndarray]]:
    """A run with or without the panel and its watch."""
    task, data = softmax_task(), softmax_data([5, 9, 3, 12, 7, 4, 8, 6], seed=3)
    mesh = make_mesh(plan.devices)
    sampler = ragged().sampler()
    panel = drift_panel(every=every, groups=groups) if every else None
    watch = drift_watch(task, plan, mesh, every=every) if every else None
    algorithm = bind(recipe, task, plan, mesh, panel=panel)
    key = jax.random.key(5)
    state = init_run(algorithm, sampler, key, task.init(key), data.n_clients, watch=watch)
    simulate = make_simulate(algorithm, sampler, chunk=rounds, watch=watch)
    step = quick_jit(simulate, out_shardings=replicated(mesh))
    state, records = step(*place((key, state), mesh), rounds, place(data, mesh))
    return state, {n: np.asarray(v) for n, v in records.items()}


@functools.cache
def ragged() -> Script:
    return script(12, 5, 8, seed=4)


RECIPES = {
    "fedavg": lambda: fedavg(optax.sgd(0.1), batch_size=4),
    "fedavgm": lambda: fedavgm(optax.sgd(0.1), batch_size=4),
    "fednova": lambda: fednova(optax.sgd(0.1), batch_size=4),
    "scaffold": lambda: scaffold(optax.sgd(0.1), batch_size=4),
}


MEASURED = [
    ("fedavg", Plan(1, 1)),
    ("fedavg", Plan(3, 2)),
    ("fedavgm", Plan(1, 2)),
    ("fednova", Plan(3, 1)),
    ("scaffold", Plan(1, 1)),
    ("scaffold", Plan(3, 2)),
]


@pytest.mark.parametrize(("name", "plan"), few(MEASURED, MEASURED[5], several=True), ids=str)
def test_training_is_what_it_was_but_for_rounding(x64: None, name: str, plan: Plan) -> None:
    """Same draws, same sums. Not bitwise: what else a program holds decides what XLA fuses."""
    without, _ = run(RECIPES[name](), plan=plan)
    measured, records = run(RECIPES[name](), every=3, plan=plan)
    got, want = measured._replace(watch=()), without._replace(watch=())
    assert_trees_close(got, want, rtol=1e-12, atol=1e-14)
    assert records["drift_measured"].any()


@pytest.mark.slow
def test_layouts_agree() -> None:
    name = "scaffold"
    _, want = run(RECIPES[name](), every=2, groups=np.arange(8) % 2)
    for plan in PLANS[1:]:
        _, got = run(RECIPES[name](), every=2, plan=plan, groups=np.arange(8) % 2)
        for n in [n for n in want if n.startswith("drift")]:
            np.testing.assert_allclose(got[n], want[n], rtol=2e-3, atol=2e-5, err_msg=f"{n} {plan}")


@pytest.mark.slow
def test_readings_do_not_depend_on_how_often_they_are_taken() -> None:
    _, always = run(RECIPES["fedavg"](), every=1)
    _, seldom = run(RECIPES["fedavg"](), every=5)
    due = np.flatnonzero(seldom["drift_measured"])
    assert due.tolist() == [i for i in (0, 4, 9) if always["drift_measured"][i]]
    for n in [n for n in always if n.startswith("drift") and n != "drift_cohort_size"]:
        np.testing.assert_array_equal(always[n][due], seldom[n][due], err_msg=n)


def test_a_probe_is_taken_every_fifth_round_at_most() -> None:
    _, always = run(RECIPES["fedavg"](), every=1)
    read, probed = always["drift_measured"], always["drift_probe_measured"]
    assert np.flatnonzero(probed).tolist() == [0, 4, 9]
    rows = chunk_records(
        {n: v for n, v in always.items() if n.startswith("drift")},
        (),
        first_round=1,
        rounds=12,
        seconds=(0.0, 1.0),
    )
    assert [i for i, r in enumerate(rows) if "drift_cosine" in r] == np.flatnonzero(read).tolist()
    assert [i for i, r in enumerate(rows) if "drift_probe_square" in r] == [0, 4, 9]
    held = always["drift_noise_scale"][read]
    assert (held > 0).all() and len(set(held.tolist())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg", "fedavgm"])
def test_alignment_is_with_the_step_that_was_taken(x64: None, name: str) -> None:
    """Against one round's own reports, by hand: clients' updates and the server's step."""
    task, data = softmax_task(), softmax_data([5, 9, 3, 12, 7, 4], seed=6)
    recipe, plan, mesh = RECIPES[name](), Plan(2, 1), make_mesh(1)
    key, cohort = jax.random.key(1), cohort_of([4, 1, 3], [True, True, False])
    seen: list[np.ndarray] = []
    panel = drift_panel(every=1)
    algorithm = bind(recipe, task, plan, mesh, panel=panel)
    collecting = bind(_kept(recipe), task, plan, mesh)
    watch = drift_watch(task, plan, mesh, every=1, clients=0)
    state, step = algorithm.init(key, task.init(key), 6), quick_jit(algorithm.step)
    state, _, _ = step(jax.random.key(7), state, (), cohort_of([0, 2]), data)
    before = algorithm.global_model(state)  # after a round: the server has momentum
    alone, one = collecting.init(key, before, 6), quick_jit(collecting.step)
    for i in (4, 1):
        moved, _, _ = one(key, alone, (), cohort_of([i]), data)
        seen.append(vector(before.params) - vector(collecting.global_model(moved).params))
    after, _, info = step(key, state, (), cohort, data)
    moment = Moment(key, cohort.round, before, algorithm.global_model(after), cohort, info, data)
    _, values = watch.observe(watch.init(before, 6), moment)
    taken = vector(before.params) - vector(algorithm.global_model(after).params)
    want = oracle.alignment(seen, [1, 1], taken)
    np.testing.assert_allclose(values["drift_alignment"], want, rtol=1e-9)


def _kept(recipe: Any) -> Any:
    """The same clients with plain averaging at the server: one client's round is its update."""
    built = recipe.build(**recipe.hyper)
    return compose(built.client, mean(), server_opt(optax.sgd(1.0)))


def test_nothing_shared_is_not_measured() -> None:
    _, records = run(local_only(optax.sgd(0.1), batch_size=4), every=1, rounds=2)
    assert not [n for n in records if n.startswith("drift")]


def test_one_compile_whatever_is_due() -> None:
    traces: list[int] = []
    task, data, mesh = softmax_task(traces=traces), softmax_data([5, 9, 3, 7]), make_mesh(1)
    sampler = script(4, 3, 4).sampler()
    watch = drift_watch(task, Plan(), mesh, every=2)
    algorithm = bind(RECIPES["fedavg"](), task, Plan(), mesh, panel=drift_panel(every=2))
    key = jax.random.key(0)
    state = init_run(algorithm, sampler, key, task.init(key), 4, watch=watch)
    step = quick_jit(make_simulate(algorithm, sampler, chunk=3, watch=watch))
    state, _ = step(key, state, 3, data)
    first = len(traces)
    state, records = step(key, state, 2, data)
    assert len(traces) == first and step._cache_size() == 1
    assert records["drift_measured"].tolist() == [True, False, False]


# -- refusals --


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_bad_cadence_is_refused(every: Any) -> None:
    with pytest.raises(InputError, match="drift_every"):
        drift_panel(every=every)


@pytest.mark.parametrize("groups", [[-1, 0], [0.5, 1], [[0, 1]], [], [0, 999]])
def test_bad_groups_are_refused(groups: Any) -> None:
    with pytest.raises(InputError, match="groups"):
        drift_panel(every=1, groups=np.array(groups))


def test_too_many_groups_for_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedjax_sim.engine.plan.memory_bytes", lambda: 1500)
    one_round(np.eye(P)[:4], np.ones(4), groups=[0, 1, 0, 1])
    with pytest.raises(InputError, match=r"40 groups in the drift panel"):
        one_round(np.eye(P)[:4], np.ones(4), groups=[0, 1, 0, 39])


def test_updates_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(dict\).*drift_every = 0"):
        params_of({"w": jnp.zeros(2)})
    wrapped = params_of(tree.zeros(Model({"w": jnp.ones(2)})))
    assert wrapped["w"].tolist() == [0, 0]
