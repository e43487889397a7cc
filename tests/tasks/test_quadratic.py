"""Closed forms of the quadratic task in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim import tasks
from fedjax_sim.core.types import Batch, Model

KEY = jax.random.key(0)


def test_value_gradient_and_hessian(x64):
    rng = np.random.default_rng(0)
    a, b, p = rng.uniform(1, 2, (4, 3)), rng.normal(size=(4, 3)), rng.normal(size=3)
    mask = np.array([1, 0, 1, 1], bool)
    task = tasks.quadratic(3, p)
    model, batch = task.init(KEY), Batch(*map(jnp.asarray, (a, b, mask)))

    def loss(x):
        return task.loss(KEY, Model({"x": x}), batch)[0]

    each = 0.5 * (a * (p - b) ** 2).sum(-1)
    np.testing.assert_allclose(loss(model.params["x"]), each[mask].mean(), rtol=1e-14)
    gradient = (a * (p - b))[mask].mean(0)
    np.testing.assert_allclose(jax.grad(loss)(model.params["x"]), gradient, rtol=1e-14)
    curvature = np.diag(a[mask].mean(0))
    np.testing.assert_allclose(jax.hessian(loss)(model.params["x"]), curvature, rtol=1e-14)
    total, count = task.metrics(task.predict(model, batch.x), batch)["loss"]
    np.testing.assert_allclose(total / count, each[mask].mean(), rtol=1e-14)


def test_gradient_descent_contracts_geometrically(x64):
    a, b, rate, steps = np.array([[0.5, 2.0]]), np.array([[3.0, -1.0]]), 0.1, 25
    task = tasks.quadratic(2)
    batch = Batch(jnp.asarray(a), jnp.asarray(b), jnp.ones(1, bool))
    params = task.init(KEY).params
    assert params["x"].dtype == jnp.float64
    for _ in range(steps):
        gradient = jax.grad(lambda p: task.loss(KEY, Model(p), batch)[0])(params)
        params = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
    expected = b[0] - b[0] * (1 - rate * a[0]) ** steps
    np.testing.assert_allclose(params["x"], expected, rtol=1e-13)
