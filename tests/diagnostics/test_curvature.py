"""Slope, products and heights of the federated objective against NumPy and dense Hessians."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLASSES, DIM, flat, softmax_data, softmax_task, window
from jax.flatten_util import ravel_pytree
from oracles.curvature import softmax_gradient, softmax_hessian
from sparing import few

from fedjax_sim import tasks
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Batch, Model
from fedjax_sim.diagnostics.curvature import (
    HELD,
    TRAINED,
    Received,
    landscape,
    measures,
    sum_loss,
    which_loss,
)
from fedjax_sim.engine.plan import Plan
from fedjax_sim.tasks.models import mlp

pytestmark = pytest.mark.usefixtures("x64")
SIZES = [5, 1, 12, 7, 3]
P = DIM * CLASSES + CLASSES


def order():
    """Where each entry of jax's flat params (b first, then w) lies in the oracle's (w, b)."""
    names = {"w": np.arange(DIM * CLASSES).reshape(DIM, CLASSES), "b": np.arange(P - CLASSES, P)}
    return np.asarray(ravel_pytree(names)[0])


def weighed(data, weighting, of):
    """`sum_i w_i of(x_i, y_i)` over clients, in NumPy."""
    sizes = np.asarray(data.sizes)
    weights = (
        sizes / sizes.sum() if weighting == "examples" else np.full(len(sizes), 1 / len(sizes))
    )
    return sum(w * of(*window(data, i)) for i, w in enumerate(weights))


def setting(seed=0):
    task, data = softmax_task(), softmax_data(SIZES, seed)
    model = task.init(jax.random.key(seed))
    return task, model, data, flat(model.params)


@pytest.mark.parametrize("weighting", few(["examples", "uniform"], "uniform"))
def test_slope_and_products_equal_numpy(weighting):
    task, model, data, point = setting()
    ground = landscape(task, model, data, weighting=weighting, batch_size=4, plan=Plan(1, 1))
    _, gradient = ground.slope(ground.point)
    at = order()
    want = weighed(data, weighting, lambda x, y: softmax_gradient(point, x, y, CLASSES))
    np.testing.assert_allclose(gradient, want[at], rtol=1e-12, atol=1e-15)
    h = weighed(data, weighting, lambda x, y: softmax_hessian(point, x, y, CLASSES))[at][:, at]
    v = np.random.default_rng(1).normal(size=(3, P))
    np.testing.assert_allclose(ground.products(ground.point, v), v @ h, rtol=1e-11, atol=1e-14)


LAYOUTS = [(w, *plan) for w in ("examples", "uniform") for plan in ((1, 2), (3, 1), (2, 4))]


@pytest.mark.parametrize(
    ("weighting", "lanes", "devices"), few(LAYOUTS, ("examples", 2, 4), several=True)
)
def test_lanes_and_devices_change_nothing(weighting, lanes, devices):
    task, model, data, _ = setting()
    v = np.random.default_rng(1).normal(size=(2, P))

    def measured(plan, batch_size):
        g = landscape(task, model, data, weighting=weighting, batch_size=batch_size, plan=plan)
        along = g.along(g.point, v[0], np.array([0.0, 0.1, -1.0]))
        return (*g.slope(g.point), g.products(g.point, v), along)

    for got, want in zip(measured(Plan(lanes, devices), 3), measured(Plan(1, 1), 100), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


def test_heights_along_a_line_equal_the_loss_there():
    task, model, data, _ = setting()
    ground = landscape(task, model, data, plan=Plan(1, 1))
    v = np.random.default_rng(2).normal(size=P)
    distances = np.array([-1.0, 0.0, 1e-3, 2.0])
    heights = ground.along(ground.point, v, distances)
    want = [float(ground.slope(ground.point + d * v)[0]) for d in distances]
    np.testing.assert_allclose(heights, want, rtol=1e-13)


def test_clients_whose_windows_overlap_are_still_counted_as_they_are():
    """Rows that several clients own cannot be cut into shared windows."""
    task, model, data, point = setting()
    shared = dataclasses.replace(
        data, offsets=jnp.array([0, 0, 4], jnp.int32), sizes=jnp.array([6, 10, 3], jnp.int32)
    )
    ground = landscape(task, model, shared, plan=Plan(1, 1))
    want = weighed(shared, "examples", lambda x, y: softmax_gradient(point, x, y, CLASSES))
    np.testing.assert_allclose(ground.slope(ground.point)[1], want[order()], rtol=1e-12)


@pytest.mark.slow
def test_a_block_of_products_of_a_network_equals_the_dense_hessian():
    task = tasks.classifier(mlp(7, 5), classes=CLASSES, x_shape=(DIM,), dtype=jnp.float64)
    data, model = softmax_data(SIZES), task.init(jax.random.key(3))
    ground = landscape(task, model, data, batch_size=9, plan=Plan(1, 2))
    vector, unravel = ravel_pytree(model.params)
    batch = Batch(data.x, data.y, jnp.ones(len(data.x), bool))

    def loss(v):
        return task.loss(jax.random.key(0), Model(unravel(v), ()), batch)[0]

    h = np.asarray(jax.hessian(loss)(vector))
    found = ground.products(ground.point, np.eye(len(vector)))
    np.testing.assert_allclose(found, h, rtol=1e-10, atol=1e-13)
    assert np.abs(h).max() > 0.1


def test_a_block_shares_its_primal_pass():
    """What eight vectors cost over one, by XLA's own count: the gradient is computed once."""
    task = tasks.classifier(mlp(64, 64, 64), classes=CLASSES, x_shape=(DIM,), dtype=jnp.float64)
    model = task.init(jax.random.key(0))
    batch = Batch(jnp.ones((128, DIM)), jnp.zeros(128, jnp.int32), jnp.ones(128, bool))
    vector, unravel = ravel_pytree(model.params)
    slope, products, _ = measures(sum_loss(task, TRAINED), unravel)

    def flops(f, block=None):
        extra = () if block is None else (jnp.ones((block, vector.size)),)
        given = (Received(model.params, (), extra), batch, jax.random.key(0))
        return jax.jit(f).lower(*given).compile().cost_analysis()["flops"]

    gradient, one, eight = flops(slope), flops(products, 1), flops(products, 8)
    assert one - eight / 8 > 0.3 * gradient  # a single product pays for the primal pass alone
    assert eight / 8 < 2.2 * gradient


def test_another_model_is_measured_by_the_same_programs():
    task, model, data, _ = setting()
    other = task.init(jax.random.key(9))
    there = landscape(task, model, data, plan=Plan(1, 1)).move(other)
    want = softmax_gradient(flat(other.params), np.asarray(data.x), np.asarray(data.y), CLASSES)
    np.testing.assert_allclose(there.slope(there.point)[1], want[order()], rtol=1e-12)
    back = there.tree(there.point)
    np.testing.assert_array_equal(back["w"], np.asarray(other.params["w"]))


def test_batch_statistics_are_held_fixed():
    """With a state the loss is that of evaluation mode: additive over batches of any width."""
    network = mlp(6, norm="batch")
    task = tasks.classifier(network, classes=CLASSES, x_shape=(DIM,), dtype=jnp.float64)
    data, model = softmax_data(SIZES), task.init(jax.random.key(0))
    assert which_loss(task, model, data) == HELD
    state = jax.tree.map(lambda leaf: leaf + 0.3, model.state)
    fine = landscape(task, model, data, batch_size=2, plan=Plan(1, 1)).move(
        Model(model.params, state)
    )
    batch = Batch(data.x, data.y, jnp.ones(len(data.x), bool))
    total, count = task.metrics(task.predict(Model(model.params, state), data.x), batch)["loss"]
    np.testing.assert_allclose(fine.slope(fine.point)[0], total / count, rtol=1e-12)
    stale = landscape(task, model, data, batch_size=2, plan=Plan(1, 1))
    assert abs(float(stale.slope(stale.point)[0]) - float(total / count)) > 1e-3


def test_a_random_loss_is_measured_in_evaluation_mode_and_a_plain_one_as_it_is_trained():
    task, model, data, _ = setting()
    assert which_loss(task, model, data) == TRAINED

    def noisy(key, model, batch):
        value, state = task.loss(key, model, batch)
        return value + jax.random.normal(key), state

    assert which_loss(task._replace(loss=noisy), model, data) == HELD


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"weighting": "steps"}, "weighting"), ({"batch_size": 0}, "batch_size"),
     ({"measured": "accuracy"}, "measured")],
)  # fmt: skip
def test_bad_input_is_named(changes, field):
    task, model, data, _ = setting()
    with pytest.raises(InputError) as caught:
        landscape(task, model, data, **changes)
    assert caught.value.field == field


def test_integer_params_and_empty_data_are_refused():
    task, _, data, _ = setting()
    with pytest.raises(InputError, match="floating"):
        landscape(task, Model({"w": jnp.ones(3, jnp.int32)}), data)
    with pytest.raises(InputError, match="at least one example"):
        landscape(*setting()[:2], dataclasses.replace(data, sizes=jnp.zeros(5, jnp.int32)))
