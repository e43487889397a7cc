"""The answer at points whose kind is known by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles.curvature import (
    critical_weights,
    deep_linear_gradients,
    deep_linear_loss,
    hessian_by_differences,
    softmax_hessian,
    spectral_moments,
)
from sparing import few
from threadpoolctl import threadpool_limits

from fedjax_sim import tasks
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Batch, Model
from fedjax_sim.data.federated import Federation, shards_from_index
from fedjax_sim.diagnostics.critical import critical_point
from fedjax_sim.diagnostics.critical_answer import Tolerances
from fedjax_sim.engine.plan import Plan
from fedjax_sim.tasks.functional import from_loss
from fedjax_sim.tasks.models import mlp
from fedjax_sim.tasks.saddles import Surface, monkey_saddle, surface, tilts

pytestmark = pytest.mark.usefixtures("x64")
HERE = Plan(1, 1)


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


def ask(value, at, clients=3, tilt=0.5, **options):
    """The answer for a surface whose clients disagree about the slope and not in the mean."""
    at = np.asarray(at, float)
    x = tilts(clients, len(at), tilt)
    shards = shards_from_index(x, np.zeros_like(x), [np.array([i]) for i in range(clients)])
    task = surface(Surface("f", value, len(at)), at)
    model = task.init(jax.random.key(0))
    return critical_point(task, model, Federation(shards), plan=HERE, **options)


def test_a_strict_saddle_and_its_way_out():
    found = ask(lambda p: p[0] ** 2 - p[1] ** 2, [0, 0])
    assert (found.kind, found.degenerate) == ("saddle", False)
    np.testing.assert_allclose([found.low.value, found.high.value], [-2, 2], rtol=1e-12)
    np.testing.assert_allclose(np.abs(found.walk.direction), [0, 1], atol=1e-12)
    np.testing.assert_allclose(np.abs(found.descent["x"]), [0, 1], atol=1e-12)
    step = found.walk.step
    np.testing.assert_allclose(found.predicted_decrease, step**2, rtol=1e-9)
    np.testing.assert_allclose(found.verified_decrease, step**2, rtol=1e-9)
    assert (found.negative, found.flat) == (1, 0) and found.sentence.startswith("A saddle")


def test_the_way_out_goes_with_the_slope_that_is_left():
    """A little off the saddle, on the side of y > 0, the way out must not cross the ridge."""
    tolerances = Tolerances(stationary=1e-3)
    for side in (1, -1):
        found = ask(
            lambda p: p[0] ** 2 - p[1] ** 2, [0, side * 1e-4], tolerances=tolerances, scale=1.0
        )
        assert found.kind == "saddle"
        assert found.walk.direction[1] * side > 0.99 and found.walk.slope < 0


def test_the_monkey_saddle_has_a_way_out_that_no_hessian_shows():
    found = ask(monkey_saddle().value, [0, 0])
    assert (found.kind, found.degenerate) == ("saddle", True)
    assert max(abs(found.low.value), abs(found.high.value)) < 1e-12
    angle = np.arctan2(*found.walk.direction[::-1])  # valleys at 60, 180 and 300 degrees
    assert np.cos(3 * angle) < -0.9
    step = found.walk.step
    np.testing.assert_allclose(found.verified_decrease, -(step**3) * np.cos(3 * angle), rtol=1e-6)
    assert "higher order" in found.sentence


@pytest.mark.parametrize(
    ("value", "kind", "degenerate", "low", "high"),
    [
        pytest.param(
            lambda p: p[0] ** 2 + 3 * p[1] ** 2,
            "local minimum",
            False,
            2,
            6,
            marks=pytest.mark.slow,
        ),
        (lambda p: 5.0 + 0 * p[0], "flat", True, 0, 0),
        (lambda p: p[0] ** 2 + 0 * p[1], "local minimum", True, 0, 2),
        pytest.param(
            lambda p: p[0] ** 4 + p[1] ** 4, "local minimum", True, 0, 0, marks=pytest.mark.slow
        ),
        (lambda p: p[0] ** 2 - p[1] ** 4, "saddle", True, 0, 2),
        pytest.param(lambda p: p[0] ** 2 + p[1] ** 3, "saddle", True, 0, 2, marks=pytest.mark.slow),
        (lambda p: -(p[0] ** 2) - p[1] ** 2, "saddle", False, -2, -2),
        pytest.param(
            lambda p: p[0] ** 2 + 1e-2 * p[1] ** 2,
            "local minimum",
            False,
            0.02,
            2,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["bowl", "constant", "valley", "quartic", "quartic down", "cubic", "maximum", "narrow"],
)
def test_every_kind_of_point_is_told(value, kind, degenerate, low, high):
    found = ask(value, [0, 0])
    assert (found.kind, found.degenerate) == (kind, degenerate)
    np.testing.assert_allclose([found.low.value, found.high.value], [low, high], atol=1e-12)
    assert found.sentence and found.facts()["kind"] == kind


@pytest.mark.slow
@pytest.mark.parametrize("factor", few([1e-6, 1.0, 1e6], 1e-6))
def test_the_unit_of_the_loss_does_not_matter(factor):
    """Scaling f changes no answer: all tolerances are without a unit."""
    for value, kind in (
        (lambda p: factor * (p[0] ** 2 - p[1] ** 2), "saddle"),
        (lambda p: factor * (p[0] ** 2 + p[1] ** 2), "local minimum"),
    ):
        assert ask(value, [0, 0], tilt=0.0).kind == kind
    assert (
        ask(lambda p: factor * (p[0] ** 2 + p[1] ** 2), [1, 1], tilt=0.0).kind == "not stationary"
    )


@pytest.mark.slow
def test_tolerances_decide_as_they_say():
    def almost(p):
        return p[0] ** 2 - 1e-5 * p[1] ** 2 + p[1] ** 4

    strict = Tolerances(curvature=1e-6)
    assert ask(almost, [0, 0], tolerances=strict).kind == "saddle"
    assert not ask(almost, [0, 0], tolerances=strict).degenerate
    assert ask(almost, [0, 0], tolerances=Tolerances(curvature=1e-3)).degenerate

    def bowl(p):
        return 1.0 + p[0] ** 2 + p[1] ** 2

    # A step from (1e-2, 0) gains 1e-4 of a loss of 1.
    assert ask(bowl, [1e-2, 0], tolerances=Tolerances(stationary=5e-5)).kind == "not stationary"
    found = ask(bowl, [1e-2, 0], tolerances=Tolerances(stationary=2e-4))
    assert found.kind == "local minimum"
    np.testing.assert_allclose(found.promised, 1e-4, rtol=1e-9)


def test_where_it_is_not_stationary_the_step_down_is_tried():
    found = ask(lambda p: p[0] ** 2 + 4 * p[1] ** 2, [1.0, 0.0])
    assert found.kind == "not stationary"
    np.testing.assert_allclose(found.promised, 1.0, rtol=1e-9)  # to the bottom
    np.testing.assert_allclose(found.gained, 1.0, rtol=1e-9)
    np.testing.assert_allclose(found.walk.direction, [-1, 0], atol=1e-12)


def linear_network(a, widths):
    """A federation of whitened examples on which the mean squared error is the oracle's loss."""
    n = widths[0]
    x = np.sqrt(n) * np.eye(n)
    y = x @ a.T

    def init(key):
        keys = jax.random.split(key, len(widths))
        shapes = zip(widths[1:], widths[:-1], strict=True)
        return [jax.random.normal(k, s) / 2 for k, s in zip(keys, shapes, strict=False)]

    def losses(weights, x, y):
        h = x
        for w in weights:
            h = h @ w.T
        return 0.5 * jnp.sum((h - y) ** 2, axis=1)

    half = n // 2
    parts = [np.arange(half), np.arange(half, n)]
    return from_loss(init, losses), Federation(shards_from_index(x, y, parts))


TARGET = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0] @ np.diag([3, 2, 1.2, 0.6])


DEEP = [
    (widths, *case)
    for widths in ((4, 3, 4), (4, 3, 3, 4))
    for case in (
        ((0, 1, 2), "local minimum"),
        ((0, 1, 3), "saddle"),
        ((1, 2, 3), "saddle"),
        ((0, 1), "saddle"),
        ((2,), "saddle"),
        ((), "saddle"),
    )
]


@pytest.mark.parametrize(
    ("widths", "keep", "kind"), few(DEEP, DEEP[0], DEEP[1], DEEP[11], several=True)
)
def test_deep_linear_networks_have_saddles_but_for_their_global_minima(widths, keep, kind):
    weights = critical_weights(TARGET, widths, keep)
    steepest = max(np.abs(g).max() for g in deep_linear_gradients(weights, TARGET))
    assert steepest < 1e-12  # the oracle's own word that the point is critical
    task, data = linear_network(TARGET, widths)
    model = Model([jnp.asarray(w) for w in weights])
    found = critical_point(task, model, data, plan=HERE)
    np.testing.assert_allclose(found.loss, deep_linear_loss(weights, TARGET), rtol=1e-12)
    assert found.kind == kind, found.sentence
    if kind == "saddle":
        out = [w + found.walk.step * d for w, d in zip(weights, found.descent, strict=True)]
        gained = found.loss - deep_linear_loss(out, TARGET)
        np.testing.assert_allclose(gained, found.verified_decrease, rtol=1e-9)
        assert gained > 1e-4 * found.loss
    else:
        assert found.degenerate and found.flat > 0  # the factors can be rescaled


@pytest.mark.slow
def test_a_deep_network_at_zero_is_a_saddle_of_third_order():
    """Depth 3 at zero: gradient and Hessian vanish, and the way out is of third order."""
    task, data = linear_network(TARGET, (4, 3, 3, 4))
    model = Model([jnp.zeros((b, a)) for a, b in ((4, 3), (3, 3), (3, 4))])
    found = critical_point(task, model, data, plan=HERE)
    assert (found.kind, found.degenerate) == ("saddle", True)
    assert max(abs(found.low.value), abs(found.high.value)) < 1e-12
    shallow = linear_network(TARGET, (4, 3, 4))
    model = Model([jnp.zeros((3, 4)), jnp.zeros((4, 3))])
    found = critical_point(shallow[0], model, shallow[1], plan=HERE)
    assert (found.kind, found.degenerate) == ("saddle", False)
    np.testing.assert_allclose([found.low.value, found.high.value], [-3, 3], rtol=1e-9)


def test_the_oracle_agrees_with_differences():
    """The closed-form Hessian and gradients that other tests lean on, checked by differences."""
    rng = np.random.default_rng(0)
    x, y, point = rng.normal(size=(9, 3)), rng.integers(0, 4, 9), rng.normal(size=16)
    from oracles.curvature import softmax_gradient

    h = hessian_by_differences(lambda v: softmax_gradient(v, x, y, 4), point)
    np.testing.assert_allclose(h, softmax_hessian(point, x, y, 4), atol=1e-8)
    weights = [rng.normal(size=(3, 4)), rng.normal(size=(3, 3)), rng.normal(size=(4, 3))]
    for layer, gradient in enumerate(deep_linear_gradients(weights, TARGET)):
        moved = [w.copy() for w in weights]
        moved[layer][1, 2] += 1e-6
        slope = (deep_linear_loss(moved, TARGET) - deep_linear_loss(weights, TARGET)) / 1e-6
        np.testing.assert_allclose(slope, gradient[1, 2], rtol=1e-4)


def network(widths, seed=0, examples=60, classes=3, inputs=8):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, inputs))
    y = rng.integers(0, classes, examples).astype(np.int32)
    task = tasks.classifier(mlp(*widths), classes=classes, x_shape=(inputs,), dtype=jnp.float64)
    parts = np.array_split(np.arange(examples), 5)
    return task, Federation(shards_from_index(x, y, parts)), task.init(jax.random.key(seed))


def dense_hessian(task, data, model):
    vector, unravel = ravel_pytree(model.params)
    x, y = jnp.asarray(data.train.x), jnp.asarray(data.train.y)
    batch = Batch(x, y, jnp.ones(len(x), bool))
    loss = lambda v: task.loss(jax.random.key(0), Model(unravel(v), ()), batch)[0]  # noqa: E731
    return np.asarray(jax.jit(jax.hessian(loss))(vector))


@pytest.mark.parametrize("widths", few([(12,), (16, 10), (60, 20)], (16, 10)))
def test_extreme_eigenvalues_equal_dense_ones(widths):
    """By Lanczos, not by the exact path: fewer products than parameters."""
    task, data, model = network(widths)
    h = dense_hessian(task, data, model)
    truth, n = np.linalg.eigvalsh(h), len(h)
    found = critical_point(task, model, data, steps=min(30, n // 4 - 1), block=4, plan=HERE)
    assert found.parameters == n and found.products < n and not found.spectrum.exact
    for got, want in ((found.low, truth[0]), (found.high, truth[-1])):
        assert abs(got.value - want) <= 1e-3 * abs(want)
        assert abs(got.value - want) <= got.error + 1e-12
    trace, square = spectral_moments(h)
    spread = np.sqrt(2 * square / (4 * n)), np.sqrt(2 * np.mean(truth**4) / (4 * n))
    assert abs(found.spectrum.moment(1) - trace) < 4 * spread[0]
    assert abs(found.spectrum.moment(2) - square) < 4 * spread[1]


def test_a_small_model_has_its_whole_spectrum():
    task, data, model = network((12,))
    h = dense_hessian(task, data, model)
    found = critical_point(task, model, data, plan=HERE)
    assert found.spectrum.exact
    np.testing.assert_allclose(found.spectrum.values, np.linalg.eigvalsh(h), atol=1e-12)
    trace, square = spectral_moments(h)
    np.testing.assert_allclose(found.spectrum.moment(1), trace, rtol=1e-10)
    np.testing.assert_allclose(found.spectrum.moment(2), square, rtol=1e-10)


@pytest.mark.slow
def test_layout_changes_no_answer():
    task, data, model = network((10, 6))
    first = critical_point(task, model, data, steps=8, block=4, plan=Plan(1, 1))
    for plan, weighting in ((Plan(1, 4), "examples"), (Plan(2, 2), "uniform")):
        want = first
        if weighting == "uniform":
            want = critical_point(
                task, model, data, steps=8, block=4, plan=Plan(1, 1), weighting=weighting
            )
        got = critical_point(task, model, data, steps=8, block=4, plan=plan, weighting=weighting)
        assert got.kind == want.kind
        for name in ("loss", "gradient_norm", "promised", "gradient_curvature"):
            np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-5)
        np.testing.assert_allclose(
            [got.low.value, got.high.value], [want.low.value, want.high.value], rtol=1e-5
        )


def test_a_model_that_diverged_is_refused():
    task, data, model = network((4,))
    broken = jax.tree.map(lambda p: p * jnp.nan, model)
    with pytest.raises(InputError, match="finite"):
        critical_point(task, broken, data, plan=HERE)


@pytest.mark.parametrize("name", ["stationary", "curvature", "eigenvalue"])
def test_tolerances_out_of_bounds_are_refused(name):
    with pytest.raises(InputError, match=name):
        Tolerances(**{name: 0.0})
