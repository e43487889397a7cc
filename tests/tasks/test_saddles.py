"""Surfaces and networks with known saddles: values, critical points, spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from jax.flatten_util import ravel_pytree
from sparing import few

from fedjax_sim import tasks
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Batch, Model
from fedjax_sim.tasks import saddle_networks, saddles

KEY = jax.random.key(0)


def spectrum(surface, point):
    """`(gradient norm, eigenvalues)` at a point."""
    p = jnp.asarray(point, float)
    return (
        float(jnp.linalg.norm(jax.grad(surface.value)(p))),
        np.linalg.eigvalsh(jax.hessian(surface.value)(p)),
    )


CRITICAL = [
    (saddles.saddle(0.3), (0, 0), (-0.3, 1), 0.0),
    (saddles.double_well(0.3), (0, 0), (-0.3, 1), 0.0),
    (saddles.double_well(0.25), (0, 0.5), (0.5, 1), -(0.25**2) / 4),
    (saddles.double_well(0.25), (0, -0.5), (0.5, 1), -(0.25**2) / 4),
    (saddles.monkey_saddle(), (0, 0), (0, 0), 0.0),
    (saddles.octopus(3, up=2.0, down=0.5, width=1.0), (0, 0, 0), (-1, 4, 4), 0.0),
]


@pytest.mark.parametrize(("surface", "point", "eigenvalues", "height"), CRITICAL)
def test_critical_points_are_where_they_are_said_to_be(x64, surface, point, eigenvalues, height):
    slope, found = spectrum(surface, point)
    assert slope < 1e-14
    np.testing.assert_allclose(found, eigenvalues, atol=1e-13)
    np.testing.assert_allclose(surface.value(jnp.asarray(point, float)), height, atol=1e-14)


def test_the_monkey_has_three_valleys_and_curvature_that_grows_with_distance(x64):
    surface, angles = saddles.monkey_saddle(), np.linspace(0, 2 * np.pi, 721)[:-1]
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    heights = np.asarray(jax.vmap(surface.value)(jnp.asarray(ring)))
    np.testing.assert_allclose(heights, np.cos(3 * angles), atol=1e-13)
    for point in 0.1 * ring[::100]:
        np.testing.assert_allclose(spectrum(surface, point)[1], [-0.6, 0.6], rtol=1e-12)


UP, DOWN, WIDTH = 2.0, 0.5, 1.5


def test_the_octopus_is_a_chain_of_saddles_that_ends_in_a_minimum(x64):
    """After each coordinate settles at 4 w the next one is a saddle's, lower each time."""
    surface = saddles.octopus(3, up=UP, down=DOWN, width=WIDTH)
    heights = []
    for passed in range(4):
        point = np.array([4 * WIDTH] * passed + [0.0] * (3 - passed))
        slope, eigenvalues = spectrum(surface, point)
        assert slope < 1e-12
        want = [2 * UP] * 3 if passed == 3 else [-2 * DOWN, *[2 * UP] * 2]
        np.testing.assert_allclose(eigenvalues, want, rtol=1e-12)
        heights.append(float(surface.value(jnp.asarray(point))))
    np.testing.assert_allclose(np.diff(heights), heights[1])
    assert heights[1] < 0


@pytest.mark.parametrize("edge", [WIDTH, 2 * WIDTH])
@pytest.mark.parametrize("first", [0, 1])
def test_the_octopus_tubes_are_joined_twice_smoothly(x64, edge, first):
    """Value, slope and Hessian agree on both sides of a seam, inside the tube."""
    surface = saddles.octopus(3, up=UP, down=DOWN, width=WIDTH)
    point = np.array([4.1 * WIDTH, 0.2, -0.3]) if first else np.array([0.0, 0.2, -0.3])
    point[first] = edge
    sides = []
    for shift in (-1e-9, 1e-9):
        p = jnp.asarray(point + shift * np.eye(3)[first])
        sides.append([f(p) for f in (surface.value, jax.grad(surface.value))])
        sides[-1].append(jax.hessian(surface.value)(p))
    for below, above in zip(*sides, strict=True):
        np.testing.assert_allclose(below, above, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_tilts_change_slopes_only_and_cancel(x64):
    tilt = saddles.tilts(5, 2, 0.7)
    assert np.abs(tilt).max() > 0.1
    np.testing.assert_allclose(tilt.sum(0), 0, atol=1e-14)
    surface, point = saddles.double_well(), np.array([0.4, -0.2])
    task = saddles.surface(surface, point)
    p = task.init(KEY).params["x"]

    def loss(p, rows):
        x = jnp.asarray(tilt)
        batch = Batch(x, x, jnp.isin(jnp.arange(5), jnp.asarray(rows)))
        return task.loss(KEY, Model({"x": p}), batch)[0]

    plain = jax.grad(surface.value)(p)
    np.testing.assert_allclose(jax.grad(loss)(p, [0, 1, 2, 3, 4]), plain, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(loss)(p, [1, 3]), plain + tilt[[1, 3]].mean(0), rtol=1e-12)
    np.testing.assert_allclose(jax.hessian(loss)(p, [2]), jax.hessian(surface.value)(p))


def test_metric_padding_and_empty_batches(x64):
    task = saddles.surface(saddles.saddle(), [1.0, 2.0])
    model = task.init(KEY)
    x = jnp.array([[1.0, 0.0], [jnp.nan, jnp.inf], [0.0, 1.0]])
    batch = Batch(x, x, jnp.array([True, False, True]))
    value, slope = jax.value_and_grad(lambda p: task.loss(KEY, Model(p), batch)[0])(model.params)
    np.testing.assert_allclose(value, -1.5 + 1.5)
    np.testing.assert_allclose(slope["x"], [1 + 0.5, -2 + 0.5])
    total, count = task.metrics(task.predict(model, x), batch)["loss"]
    np.testing.assert_allclose(total / count, value)
    none = Batch(x, x, jnp.zeros(3, bool))
    value, slope = jax.value_and_grad(lambda p: task.loss(KEY, Model(p), none)[0])(model.params)
    assert float(value) == 0.0
    np.testing.assert_array_equal(slope["x"], 0)


def network_problem(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 4))
    y = x @ rng.normal(size=(4, 2)) + 0.1 * rng.normal(size=(40, 2))
    return x, y, Batch(jnp.asarray(x), jnp.asarray(y), jnp.ones(40, bool))


def dense(task, params, batch):
    """`(gradient, Hessian)` over the flat parameters."""
    vector, unravel = ravel_pytree(params)
    loss = lambda v: task.loss(KEY, Model(unravel(v)), batch)[0]  # noqa: E731
    return tuple(np.asarray(quick_jit(of(loss))(vector)) for of in (jax.grad, jax.hessian))


def test_the_zero_saddle_of_a_deep_linear_network_has_the_datas_singular_values(x64):
    x, y, batch = network_problem()
    task = saddle_networks.deep_linear(4, 3, 2)
    gradient, hessian = dense(task, task.init(KEY).params, batch)
    np.testing.assert_array_equal(gradient, 0)
    singular = np.linalg.svd(y.T @ x / len(x), compute_uv=False)
    zeros = [0.0] * (len(gradient) - 12)
    want = np.sort(np.concatenate([-np.repeat(singular, 3), zeros, np.repeat(singular, 3)]))
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), want, atol=1e-12)


def test_a_deeper_network_is_flat_at_zero(x64):
    *_, batch = network_problem()
    task = saddle_networks.deep_linear(4, 3, 3, 2)
    gradient, hessian = dense(task, task.init(KEY).params, batch)
    assert not gradient.any()
    assert not hessian.any()


@pytest.mark.parametrize(
    ("activation", "scale"),
    few([("tanh", 0.0), ("tanh", 0.4), ("softplus", 0.4)], ("tanh", 0.4), several=True),
)
def test_symmetric_units_have_the_same_gradient_and_a_way_out(x64, activation, scale):
    """Gradients never part the units; the Hessian has directions that do, with negative sign."""
    rng = np.random.default_rng(1)
    spec = saddle_networks.symmetric_mlp(4, activation=activation, scale=scale)
    task = tasks.classifier(spec, 3, x_shape=(5,), dtype=jnp.float64)
    x, y = rng.normal(size=(30, 5)), rng.integers(0, 3, 30).astype(np.int32)
    batch = Batch(jnp.asarray(x), jnp.asarray(y), jnp.ones(30, bool))
    params = task.init(KEY).params
    slope = jax.grad(lambda p: task.loss(KEY, Model(p), batch)[0])(params)
    for leaf, axis in (
        (slope["hidden"]["w"], 1),
        (slope["hidden"]["b"], 0),
        (slope["head"]["w"], 0),
    ):
        parts = np.moveaxis(np.asarray(leaf), axis, 0)
        np.testing.assert_allclose(parts, np.broadcast_to(parts[:1], parts.shape), rtol=1e-12)
    _, unravel = ravel_pytree(params)
    hessian = dense(task, params, batch)[1]
    values, vectors = np.linalg.eigh(hessian)
    assert values[0] < -1e-3
    lowest = unravel(jnp.asarray(vectors[:, 0]))
    sums = [lowest["hidden"]["w"].sum(1), lowest["head"]["w"].sum(0)]
    if scale:
        assert max(float(jnp.abs(s).max()) for s in sums) < 1e-8  # it parts the units


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: saddles.saddle(0.0), "down"),
        (lambda: saddles.surface(saddles.saddle(), [1.0]), "start"),
        (lambda: saddles.octopus(1), "dim"),
        (lambda: saddle_networks.deep_linear(3, 2), "widths"),
        (lambda: saddle_networks.deep_linear(3, 2, 1, start="ones"), "start"),
        (lambda: saddle_networks.symmetric_mlp(2, activation="relu"), "activation"),
    ],
)
def test_bad_input_is_refused(make, field):
    with pytest.raises(InputError, match=field):
        make()
