"""Each client's own slope and curvature against NumPy, whatever the layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLASSES, DIM, flat, softmax_data, softmax_task, window
from jax.flatten_util import ravel_pytree
from oracles.curvature import softmax_gradient, softmax_hessian
from sparing import few

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Model
from fedjax_sim.data.federated import Shards
from fedjax_sim.diagnostics.client_curvature import client_curvature, client_prober, ends
from fedjax_sim.diagnostics.critical_answer import Scales, Tolerances
from fedjax_sim.engine.plan import Plan
from fedjax_sim.tasks.quadratic import quadratic

pytestmark = pytest.mark.usefixtures("x64")
SIZES = [6, 1, 14, 9]
P = DIM * CLASSES + CLASSES
SCALES = Scales(loss=1.0, reach=1.0, curvature=1.0, zero=1e-9)


def order():
    names = {"w": np.arange(DIM * CLASSES).reshape(DIM, CLASSES), "b": np.arange(P - CLASSES, P)}
    return np.asarray(ravel_pytree(names)[0])


@pytest.mark.parametrize("plan", few([Plan(1, 1), Plan(3, 1), Plan(2, 2)], Plan(2, 2)), ids=str)
def test_gradients_and_eigenvalues_equal_numpy(plan):
    task, data = softmax_task(), softmax_data(SIZES)
    model, at = task.init(jax.random.key(1)), order()
    point = flat(model.params)
    whole = sum(
        s * softmax_gradient(point, *window(data, i), CLASSES) for i, s in enumerate(SIZES)
    )[at] / sum(SIZES)
    prober = client_prober(
        task, model, data, tolerances=Tolerances(), steps=P, batch_size=5, plan=plan
    )
    found = prober(model, whole, SCALES)
    ahead = whole / np.linalg.norm(whole)
    np.testing.assert_array_equal(found.examples, SIZES)
    for i in range(len(SIZES)):
        x, y = window(data, i)
        g = softmax_gradient(point, x, y, CLASSES)[at]
        h = softmax_hessian(point, x, y, CLASSES)[at][:, at]
        truth = np.linalg.eigvalsh(h)
        np.testing.assert_allclose(found.gradient_norm[i], np.linalg.norm(g), rtol=1e-10)
        np.testing.assert_allclose(found.cosine[i], g @ ahead / np.linalg.norm(g), rtol=1e-9)
        np.testing.assert_allclose(found.along[i], ahead @ h @ ahead, rtol=1e-9)
        np.testing.assert_allclose(found.high[i], truth[-1], rtol=1e-8)
        np.testing.assert_allclose(found.low[i], truth[0], atol=1e-9)
        assert found.high_error[i] < 1e-6


def test_few_products_find_the_ends_within_their_bounds():
    task, data = softmax_task(), softmax_data(SIZES)
    model, at = task.init(jax.random.key(1)), order()
    found = client_curvature(
        task, model, data, gradient=np.ones(P), scales=SCALES, steps=5, plan=Plan(1, 1)
    )
    for i in range(len(SIZES)):
        h = softmax_hessian(flat(model.params), *window(data, i), CLASSES)[at][:, at]
        truth = np.linalg.eigvalsh(h)
        assert np.min(np.abs(truth - found.high[i])) <= found.high_error[i] + 1e-12
        assert found.high[i] <= truth[-1] + 1e-12
        assert found.low[i] >= truth[0] - 1e-12


@pytest.mark.slow
def test_a_chosen_few_have_the_numbers_that_they_have_among_all():
    task, data = softmax_task(), softmax_data(SIZES)
    model = task.init(jax.random.key(2))
    ask = {"gradient": np.ones(P), "scales": SCALES, "steps": 4, "plan": Plan(2, 1)}
    whole = client_curvature(task, model, data, **ask)
    some = client_curvature(task, model, data, clients=2, **ask)
    assert len(some.ids) == 2 and len(set(some.ids.tolist())) == 2
    for name in ("loss", "gradient_norm", "along", "low", "high"):
        np.testing.assert_allclose(getattr(some, name), getattr(whole, name)[some.ids], rtol=1e-10)


def test_clients_are_told_apart_by_kind():
    """Quadratics with curvatures of their own: at (0, 0) one is at its minimum, one is not."""
    a = np.array([[1.0, 3.0], [2.0, 1.0], [-1.0, 2.0], [0.0, 0.0]])
    b = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.0], [0.0, 0.0]])
    shards = Shards(a, b, np.arange(4), np.ones(4, np.int64))
    task = quadratic(2)
    found = client_curvature(
        task,
        Model({"x": jnp.zeros(2)}),
        shards,
        gradient=np.array([1.0, 0.0]),
        scales=SCALES,
        plan=Plan(2, 1),
    )
    assert found.kinds == ("local minimum", "not stationary", "saddle", "flat")
    np.testing.assert_allclose(found.low, [1, 1, -1, 0], atol=1e-12)
    np.testing.assert_allclose(found.high, [3, 2, 2, 0], atol=1e-12)
    np.testing.assert_allclose(found.gradient_norm, [0, 1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found.along, [1, 2, -1, 0], atol=1e-12)
    np.testing.assert_allclose(found.cosine, [np.nan, -1, np.nan, np.nan])
    assert found.facts()["cosine"] == [None, -1.0, None, None]


def test_a_run_that_broke_down_is_cut_where_it_did():
    low, low_error, high, high_error = ends(np.array([2.0, 5.0, 0.0]), np.array([0.0, 0.0, 0.0]))
    assert (low, low_error, high, high_error) == (2.0, 0.0, 2.0, 0.0)
    low, _, high, error = ends(np.array([0.0, 0.0]), np.array([1.0, 0.5]))
    np.testing.assert_allclose([low, high, error], [-1, 1, 0.5 / np.sqrt(2)])


def test_more_clients_than_there_are_is_refused():
    task, data = softmax_task(), softmax_data(SIZES)
    with pytest.raises(InputError, match="at most 4"):
        client_curvature(
            task, task.init(jax.random.key(0)), data, gradient=np.ones(P), scales=SCALES, clients=9
        )
