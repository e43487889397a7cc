"""The watch: steps and groups against NumPy, in and out of the engine's own round loop."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Run, cohort_of, quadratic_task, quick_jit

from fedjax_sim.algorithms import fedavg
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Info, Model, Moment
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.diagnostics import watch as watching
from fedjax_sim.diagnostics.series import sketch_of
from fedjax_sim.diagnostics.verdict import verdict
from fedjax_sim.diagnostics.watch import group_series_of, series_of, watch
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import init_run, make_simulate
from fedjax_sim.sampling.uniform import uniform


def moment(before: Any, after: Any, **more: Any) -> Moment:
    """A round as the engine would show it; rows and members default to none."""
    rows = {n: jnp.asarray(v, float) for n, v in more.get("rows", {}).items()}
    scalars = {n: jnp.asarray(v, float) for n, v in more.get("scalars", {}).items()}
    return Moment(
        key=jax.random.key(0),
        round=jnp.int32(0),
        before=before,
        after=after,
        cohort=cohort_of(more.get("ids", [0]), more.get("present")),
        info=Info(scalars, rows, {}),
        data=(),
    )


def models(sizes: tuple[int, ...], rounds: int, seed: int = 0) -> list[Model]:
    """A walk with some direction, in several leaves."""
    rng = np.random.default_rng(seed)
    drift = [rng.normal(size=s) for s in sizes]
    at, out = [rng.normal(size=s) for s in sizes], []
    for _ in range(rounds):
        out.append(Model({str(i): jnp.asarray(a, jnp.float32) for i, a in enumerate(at)}))
        at = [a + 0.1 * d + 0.1 * rng.normal(size=d.shape) for a, d in zip(at, drift, strict=True)]
    return out


def flat(model: Model) -> np.ndarray:
    return np.concatenate([np.asarray(v, float).ravel() for v in model.params.values()])


def walked(course: list[Model], w: Any = None) -> tuple[Any, list[dict[str, float]]]:
    w = watch() if w is None else w
    state, out = w.init(course[0], 3), []
    for i, (before, after) in enumerate(itertools.pairwise(course)):
        seen = moment(before, after, scalars={"train_loss": 1.0 / (i + 1), "update_norm": i})
        state, scalars = w.observe(state, seen)
        out.append({n: v.item() for n, v in scalars.items()})
    return state, out


def test_steps_and_cosines_equal_numpy_exactly_where_all_coordinates_are_kept() -> None:
    course = models((7, 5), 8)
    state, seen = walked(course)
    steps = np.diff([flat(m) for m in course], axis=0)
    norms = np.linalg.norm(steps, axis=1)
    cosines = np.sum(steps[1:] * steps[:-1], 1) / norms[1:] / norms[:-1]
    np.testing.assert_allclose([s["step_norm"] for s in seen], norms, rtol=1e-5)
    np.testing.assert_allclose([s["step_cosine"] for s in seen[1:]], cosines, rtol=1e-4, atol=1e-5)
    assert [s["step_cosine_measured"] for s in seen] == [False] + [True] * 6
    found = series_of(state)
    assert found["step_norm"].seen == 7 and found["step_cosine"].seen == 6
    np.testing.assert_allclose(found["step_cosine"].mean[:6], cosines, rtol=1e-4, atol=1e-5)
    want = sketch_of([1.0 / (i + 1) for i in range(7)])
    np.testing.assert_allclose(found["train_loss"].mean, want.mean, rtol=1e-6)
    np.testing.assert_allclose(found["update_norm"].mean[:7], np.arange(7))


def test_a_sample_of_a_large_model_is_close_and_small() -> None:
    sizes = (120 * 200, 200, 200 * 150, 150)
    course = models(sizes, 6, seed=1)
    state, seen = walked(course)
    steps = np.diff([flat(m) for m in course], axis=0)
    norms = np.linalg.norm(steps, axis=1)
    cosines = np.sum(steps[1:] * steps[:-1], 1) / norms[1:] / norms[:-1]
    assert 2000 < state.step.size <= watching.SAMPLE
    np.testing.assert_allclose([s["step_norm"] for s in seen], norms, rtol=1e-5)
    np.testing.assert_allclose([s["step_cosine"] for s in seen[1:]], cosines, atol=4 / 2000**0.5)
    held = sum(x.nbytes for x in jax.tree.leaves(state))
    assert held < 64 * 1024


def test_the_sample_sees_every_column_of_a_layer() -> None:
    width = 200
    columns = jnp.broadcast_to(jnp.arange(width, dtype=jnp.float32), (784, width))
    picked = watching._sample({"w": columns})
    assert len(np.unique(np.asarray(picked))) == width


def test_a_server_that_stands_still_has_no_direction() -> None:
    model = models((4,), 1)[0]
    moved = Model({"0": model.params["0"] + 1})
    _, seen = walked([model, moved, moved, model, moved])
    assert [s["step_cosine_measured"] for s in seen] == [False, False, False, True]
    assert seen[-1]["step_cosine"] == pytest.approx(-1)
    assert seen[1]["step_norm"] == 0


def test_without_a_shared_model_only_the_loss_is_kept() -> None:
    w = watch()
    state, scalars = w.observe(w.init(None, 3), moment(None, None, scalars={"train_loss": 2.0}))
    assert scalars == {}
    assert set(series_of(state)) == {"train_loss"}


def test_a_round_in_which_nobody_trained_is_missing_and_not_broken() -> None:
    w = watch()
    rows = {"loss_sum": [0.0], "loss_count": [0.0]}
    state, _ = w.observe(
        w.init(None, 3), moment(None, None, scalars={"train_loss": np.nan}, rows=rows)
    )
    assert series_of(state) == {}
    rows = {"loss_sum": [np.nan], "loss_count": [1.0]}
    state, _ = w.observe(state, moment(None, None, scalars={"train_loss": np.nan}, rows=rows))
    assert bool(series_of(state)["train_loss"].broken)


def test_groups_have_their_own_mean_losses() -> None:
    groups = np.array([0, 1, 0, 2, 1])
    w, rng = watch(groups), np.random.default_rng(0)
    state, want = w.init(None, 5), [[], [], []]
    step = quick_jit(w.observe)
    for _ in range(9):
        ids = rng.permutation(5)[:3]
        present, total = rng.random(3) < 0.7, rng.random(3)
        count = rng.integers(1, 9, 3) * present
        rows = {"loss_sum": total * present, "loss_count": count}
        seen = moment(None, None, ids=ids, present=present, rows=rows, scalars={"train_loss": 1.0})
        state, _ = step(state, seen)
        for g in range(3):
            mine = (groups[ids] == g) & present
            want[g].append(total[mine].sum() / count[mine].sum() if mine.any() else None)
    for found, values in zip(group_series_of(state), want, strict=True):
        expected = sketch_of(values, bins=watching.GROUP_BINS)
        assert found["train_loss"].seen == expected.seen > 0
        np.testing.assert_allclose(found["train_loss"].mean, expected.mean, rtol=1e-5)
    assert group_series_of(walked(models((4,), 3))[0]) == []


@pytest.mark.parametrize("groups", [[0.5, 1.0], [[0, 1]], [0, -1], [0, 7], []])
def test_bad_groups_are_refused(groups: list[Any]) -> None:
    with pytest.raises(InputError, match="groups"):
        watch(groups)


def test_groups_are_one_a_client() -> None:
    with pytest.raises(InputError, match=r"one group a client, \[3\]"):
        watch([0, 1]).init(None, 3)


def test_the_state_keeps_its_types_so_that_a_loop_compiles_once() -> None:
    w = watch([0, 1, 0])
    a, b = models((5, 3), 2)
    rows = {"loss_sum": [1.0, 2.0], "loss_count": [1.0, 1.0]}
    seen = moment(a, b, ids=[0, 1], present=[True, True], rows=rows, scalars={"train_loss": 1.0})
    state = w.init(a, 3)
    after, _ = jax.jit(w.observe)(state, seen)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert (old.shape, old.dtype, old.weak_type) == (new.shape, new.dtype, new.weak_type)


@pytest.mark.slow
def test_verdicts_of_a_sweep_come_out_of_one_compiled_loop() -> None:
    """Three clients want 1, 2 and 3; the mean objective is lowest at 2, where it is 1/3."""
    at = jnp.arange(3, dtype=jnp.int32)
    x, y = jnp.ones((3, 1)), jnp.arange(1.0, 4.0)[:, None]
    data = DeviceShards(x, y, at, jnp.ones_like(at), longest=1)
    recipe = fedavg(lambda lr: optax.sgd(lr), lr=0.1)
    made = Run.of(recipe, quadratic_task(), data, uniform(3, 3), Plan(1, 1))
    w, key, rounds = watch([0, 0, 1]), jax.random.key(0), 60
    simulate = make_simulate(made.algorithm, made.sampler, chunk=rounds, watch=w)

    def run(lr: jax.Array) -> Any:
        model = made.task.init(key)
        state = init_run(made.algorithm, made.sampler, key, model, 3, {"lr": lr}, watch=w)
        return simulate(key, state, rounds, data)

    rates = [0.2, 0.02, 1e-5, 1.98, 2.0, 2.3]
    states, records = quick_jit(jax.vmap(run))(jnp.asarray(rates))
    found = [
        verdict(series_of(jax.tree.map(lambda v, i=i: v[i], states.watch)), floor=1 / 3 - 1e-6)
        for i in range(len(rates))
    ]
    names = ["converged", "converging", "stagnating", "converging", "stagnating", "diverging"]
    assert [v.name for v in found] == names
    assert [v.cause for v in found[2:3]] == ["the rate is too low"]
    assert [v.cause for v in found[4:]] == ["the rate is too high"] * 2
    # The model's distance to 2 shrinks by 1 - rate a round, and so do its steps.
    steps = np.asarray(records["step_norm"][0])
    np.testing.assert_allclose(steps[:20], 0.2 * 2 * 0.8 ** np.arange(20), rtol=1e-4)
    # Group 1 wants 3: under way to 2 its own loss falls to 1/2 and no further.
    own = group_series_of(jax.tree.map(lambda v: v[0], states.watch))[1]["train_loss"]
    np.testing.assert_allclose(own.mean[[0, rounds - 1]], [4.5, 0.5], rtol=1e-4)
