"""Evaluation against NumPy: ragged windows, any layout, personal models."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import CLASSES, DIM, Run, flat, quick_jit, script, softmax_data, softmax_task, window
from oracles.softmax import loss, probabilities
from sparing import few

from fedjax_sim.algorithms.baselines import local_only
from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.engine.evaluate import (
    by_owner,
    evaluate_clients,
    evaluate_examples,
    evaluate_global,
    windows,
)
from fedjax_sim.engine.mesh import make_mesh
from fedjax_sim.engine.plan import Plan

KEY = jax.random.key(3)
START = np.random.default_rng(2).normal(size=DIM * CLASSES + CLASSES)
RAGGED = [7, 1, 12, 20, 5, 3, 16, 12, 12]
EQUAL_BUT_ONE = [8, 8, 8, 8, 8, 8, 3]  # most lanes end together, one goes on or starts late
LAYOUTS = [(1, 1), (4, 1), (16, 1), (3, 2), (1, 8)]


def by_hand(theta, x, y):
    """`(sum of losses, number right)`."""
    right = probabilities(theta, x, CLASSES).argmax(1) == y
    return loss(theta, x, y, CLASSES) * len(y), right.sum()


@pytest.mark.parametrize(("lanes", "devices"), few(LAYOUTS, LAYOUTS[0], LAYOUTS[-1], several=True))
@pytest.mark.parametrize("sizes", [RAGGED, EQUAL_BUT_ONE], ids=["ragged", "equal but one"])
def test_global_evaluation_is_the_mean_over_all_examples(x64, sizes, lanes, devices):
    data, task = softmax_data(sizes, seed=4), softmax_task(START)
    plan, mesh = Plan(lanes, devices), make_mesh(devices)
    evaluate = quick_jit(
        lambda m, d: evaluate_global(task, m, d, plan=plan, mesh=mesh, batch_size=4)
    )
    means, each = evaluate(task.init(KEY), data)
    total_loss, right = by_hand(START, np.asarray(data.x), np.asarray(data.y))
    np.testing.assert_allclose(means["loss"], total_loss / sum(sizes), rtol=1e-12)
    np.testing.assert_allclose(means["accuracy"], right / sum(sizes), rtol=1e-12)
    own = np.array([by_hand(START, *window(data, i)) for i in range(len(sizes))])
    np.testing.assert_allclose(each["loss_sum"], own[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(each["accuracy_sum"], own[:, 1])
    np.testing.assert_array_equal(each["loss_count"], sizes)


def test_empty_windows_count_for_nothing(x64):
    sizes = [5, 0, 3]
    data, task = softmax_data(sizes), softmax_task(START)
    mesh = make_mesh(1)
    evaluate = quick_jit(
        lambda m, d: evaluate_global(task, m, d, plan=Plan(2, 1), mesh=mesh, batch_size=2)
    )
    means, each = evaluate(task.init(KEY), data)
    total, _ = by_hand(START, np.asarray(data.x), np.asarray(data.y))
    np.testing.assert_allclose(means["loss"], total / 8, rtol=1e-12)
    np.testing.assert_array_equal(each["loss_count"], sizes)


def trained(builder, plan):
    """Three rounds in which not everyone trains, and a test window for each client."""
    sizes = [7, 4, 12, 9, 5]
    drawn = script(3, 3, len(sizes), seed=1)
    recipe = builder(optax.sgd(0.5), epochs=1, batch_size=4, shuffle=False)
    run = Run.of(recipe, softmax_task(START), softmax_data(sizes), drawn.sampler(), plan)
    state, _ = run.simulate(KEY, 3)
    return run, state, softmax_data([3, 8, 1, 6, 2], seed=9)


@pytest.mark.parametrize("plan", few([Plan(1, 1), Plan(4, 1), Plan(2, 2)], Plan(2, 2)))
def test_clients_are_evaluated_with_their_own_models(x64, plan):
    run, state, test = trained(local_only, plan)
    mesh = make_mesh(plan.devices)

    def evaluate(state, test, train):
        return evaluate_clients(
            run.algorithm, run.task, state.algorithm, state.rows, test, train,
            plan=plan, mesh=mesh, batch_size=4,
        )  # fmt: skip

    means, each = quick_jit(evaluate)(state, test, run.data)
    models = flat(state.rows.model.params)
    assert np.abs(models - models[0]).max() > 0.01
    own = np.array([by_hand(models[i], *window(test, i)) for i in range(5)])
    np.testing.assert_allclose(each["loss_sum"], own[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(each["accuracy_sum"], own[:, 1])
    np.testing.assert_allclose(means["loss"], own[:, 0].sum() / 20, rtol=1e-12)


def test_clients_of_a_shared_model_are_evaluated_with_it(x64):
    run, state, test = trained(fedavg, Plan())

    def evaluate(state, test, train):
        return evaluate_clients(
            run.algorithm, run.task, state.algorithm, state.rows, test, train,
            plan=Plan(), mesh=make_mesh(1), batch_size=4,
        )  # fmt: skip

    means, each = quick_jit(evaluate)(state, test, run.data)
    theta = flat(run.model(state))
    own = np.array([by_hand(theta, *window(test, i)) for i in range(5)])
    np.testing.assert_allclose(each["loss_sum"], own[:, 0], rtol=1e-12)
    np.testing.assert_allclose(means["accuracy"], own[:, 1].sum() / 20, rtol=1e-12)


@pytest.mark.parametrize(("n", "width"), [(1, 10), (10, 10), (11, 10), (99, 7)])
def test_windows_tile_a_test_set(n, width):
    offsets, sizes = windows(n, width)
    covered = np.concatenate([np.arange(o, o + s) for o, s in zip(offsets, sizes, strict=True)])
    np.testing.assert_array_equal(covered, np.arange(n))
    assert sizes.max() <= width


@pytest.mark.parametrize(("n", "width", "devices"), [(647, 256, 2), (7, 4, 3), (3, 8, 8)])
def test_windows_are_dealt_evenly_to_devices(n, width, devices):
    offsets, sizes = windows(n, width, devices)
    assert sizes.sum() == n and sizes.max() <= width
    assert len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]
    if n == 647:
        assert len(sizes) % devices == 0
    np.testing.assert_array_equal(offsets, np.cumsum(sizes) - sizes)


@pytest.mark.parametrize("devices", [1, 2])
def test_examples_of_a_shared_model_one_by_one_and_by_owner(x64, devices):
    data, task = softmax_data([7, 0, 12, 4], seed=4), softmax_task(START)
    n = data.x.shape[0]
    offsets, sizes = windows(n, 5, devices)
    cut = type(data)(data.x, data.y, jnp.int32(offsets), jnp.int32(sizes), longest=int(sizes.max()))
    mesh = make_mesh(devices)
    evaluate = quick_jit(
        lambda m, d: evaluate_examples(task, m, d, plan=Plan(3, devices), mesh=mesh)
    )
    each = evaluate(task.init(KEY), cut)
    x, y = np.asarray(data.x), np.asarray(data.y)
    alone = np.array([by_hand(START, x[i : i + 1], y[i : i + 1]) for i in range(n)])
    np.testing.assert_allclose(each["loss_sum"], alone[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(each["accuracy_sum"], alone[:, 1])
    owner = jnp.repeat(jnp.arange(4), np.array([7, 0, 12, 4]))[: n - 4]
    sums = by_owner(each, owner, 4)
    np.testing.assert_array_equal(sums["loss_count"], [7, 0, 12, 0])
    np.testing.assert_allclose(sums["loss_sum"][2], alone[7:19, 0].sum(), rtol=1e-12)
