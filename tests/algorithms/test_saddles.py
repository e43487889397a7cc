"""Who leaves a saddle, and when: plain descent, perturbed descent, negative curvature.

All start on the stable manifold in float64, where descent has no component of the way out.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Run, shards
from sparing import few

from fedjax_sim import tasks
from fedjax_sim.algorithms import fedsgd, negative_curvature, perturbed
from fedjax_sim.core.types import Model
from fedjax_sim.data.readers.digits import read_digits
from fedjax_sim.engine.plan import Plan
from fedjax_sim.sampling.uniform import uniform
from fedjax_sim.tasks import saddle_networks, saddles

KEY = jax.random.key(7)
CLIENTS = 4
PLAIN, NEGATIVE = 10_000, 50


def surface(function, start):
    """Clients that disagree about the slope, and whose mean is the function."""
    tilt = saddles.tilts(CLIENTS, function.dim, 0.3)
    # In pairs the tilts cancel to the last bit, so that the saddle's gradient is exactly zero.
    tilt = np.concatenate([tilt[:2], -tilt[:2]])
    return saddles.surface(function, start), shards(tilt, np.zeros_like(tilt), [1] * CLIENTS)


def linear_network():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6))
    y = x @ rng.normal(size=(6, 3)) / 2 + 0.1 * rng.normal(size=(40, 3))
    return saddle_networks.deep_linear(6, 4, 3), shards(x, y, [10] * CLIENTS)


def digits(activation, scale, hidden=4, n=200):
    x, y = read_digits()
    spec = saddle_networks.symmetric_mlp(hidden, activation=activation, scale=scale)
    task = tasks.classifier(spec, 10, x_shape=(64,), dtype=jnp.float64)
    data = x[:n].reshape(n, 64) / 16, y[:n].astype(np.int32)
    return task, shards(*data, [n // CLIENTS] * CLIENTS)


def run_of(recipe, problem):
    task, data = problem
    return Run.of(recipe, task, data, uniform(CLIENTS, CLIENTS), Plan())


def train(recipe, problem, rounds):
    """`(params, loss of the model that each round started from, server state)`."""
    run = run_of(recipe, problem)
    state, records = run.simulate(KEY, rounds)
    losses = np.asarray(records["train_loss"][:rounds])
    return run.model(state), losses, state.algorithm.server


# Rate, and by how much the loss must fall for a model to have left.
STRICT = {
    "saddle": (lambda: surface(saddles.saddle(0.1), [0.0, 0.0]), 0.1, 0.1),
    "double well": (lambda: surface(saddles.double_well(0.2), [0.0, 0.0]), 0.1, 0.0075),
    "octopus": (lambda: surface(saddles.octopus(4, width=1.0), [0.0] * 4), 0.05, 0.5),
    "deep linear network": (linear_network, 0.1, 0.2),
}
DIGITS = {
    "tanh at zero": (lambda: digits("tanh", 0.0), 0.5, 0.2),
}


@pytest.mark.parametrize("name", few(STRICT, "deep linear network"))
def test_plain_descent_stays_where_negative_curvature_leaves_within_50_rounds(x64, name):
    make, rate, fall = STRICT[name]
    _leaves(make(), rate, fall)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIGITS)
def test_the_same_on_digits(x64, name):
    make, rate, fall = DIGITS[name]
    _leaves(make(), rate, fall)


def _leaves(problem, rate, fall):
    _, plain, _ = train(fedsgd(optax.sgd(rate)), problem, PLAIN)
    plateau = plain[-1]
    assert np.ptp(plain[PLAIN // 2 :]) < 1e-12 * max(1, abs(plateau))
    _, losses, server = train(negative_curvature(optax.sgd(rate)), problem, NEGATIVE + 1)
    assert losses[-1] < plateau - fall
    assert int(server.leaps) >= 1


@pytest.mark.slow
def test_symmetric_units_part_by_negative_curvature(x64):
    """From a network that plain descent trained on its symmetric manifold.

    Only rounding parts the units under plain descent (kernels may sum their columns in another
    order): 1e-16, growing by 1 % or 2 % a round, so the start is made symmetric again.
    """
    task, data = digits("softplus", 0.3)
    rate = 0.1
    trained, _, _ = train(fedsgd(optax.sgd(rate)), (task, data), 1000)
    assert _spread(trained) < 1e-6
    start = {
        "hidden": jax.tree.map(lambda v: _alike(v, -1), trained["hidden"]),
        "head": {"w": _alike(trained["head"]["w"], 0), "b": trained["head"]["b"]},
    }
    there = task._replace(init=lambda key: Model(start)), data
    recipe = negative_curvature(optax.sgd(rate), threshold=0.3, probes=40.0)
    params, losses, server = train(recipe, there, NEGATIVE)
    on, stayed, _ = train(fedsgd(optax.sgd(rate)), there, NEGATIVE)
    assert int(server.leaps) >= 1
    assert _spread(params) > 0.1
    assert _spread(on) < 1e-12
    assert losses[-1] < stayed[-1] - 5e-3


def _spread(params):
    """The largest difference between hidden units."""
    return np.ptp(np.asarray(params["hidden"]["w"]), axis=1).max()


def _alike(leaf, axis):
    return jnp.broadcast_to(jnp.mean(leaf, axis=axis, keepdims=True), leaf.shape)


def test_perturbed_descent_leaves_when_the_closed_form_says(x64):
    """One draw of the ball, then `|y_t| = (1 + rate down)^t |y_1|`: the exit to the round.

    For a ball of radius r in two dimensions `|y_1| >= q r` with probability above `1 - 4 q / pi`:
    with q = 0.1 at most 13 % of runs need more than `log(R / (q r)) / log(1 + rate down)` rounds.
    """
    rate, down, radius, bound = 0.1, 0.5, 1e-3, 0.1
    problem = surface(saddles.saddle(down), [0.0, 0.0])
    recipe = perturbed(
        optax.sgd(rate), radius=radius, threshold=1e-6, wait=1e6, steps=1, batch_size=None
    )
    run = run_of(recipe, problem)
    step, late = run.compiled(400), 0
    within = int(np.ceil(np.log(bound / (0.1 * radius)) / np.log1p(rate * down)))
    for seed in range(30):
        key = jax.random.key(seed)
        first, _ = step(key, run.start(key), 1)
        point = np.asarray(run.model(first)["x"])
        assert 0 < np.linalg.norm(point) <= radius
        needed = int(np.ceil(np.log(bound / abs(point[1])) / np.log1p(rate * down)))
        before, _ = step(key, first, needed - 1)
        after, _ = step(key, before, 1)
        y0, y1 = (abs(float(run.model(s)["x"][1])) for s in (before, after))
        assert y0 < bound <= y1, f"seed {seed}"
        assert int(after.algorithm.server.perturbations) == 1
        late += needed > within
    assert late <= 9  # of 30; more has probability below 1 % at 13 %


@pytest.mark.slow
def test_the_monkey_saddle_is_left_by_noise_and_not_by_curvature(x64):
    """At zero the Hessian vanishes: nothing of second order shows a way out. Beside it, all do."""
    at_zero = surface(saddles.monkey_saddle(), [0.0, 0.0])
    _, losses, server = train(negative_curvature(optax.sgd(0.1)), at_zero, 400)
    assert np.abs(losses).max() == 0.0
    assert (int(server.leaps), float(server.rayleigh)) == (0, 0.0)
    shaken = perturbed(optax.sgd(0.1), radius=0.1, wait=50.0, steps=1, batch_size=None)
    _, losses, server = train(shaken, at_zero, 400)
    assert np.nanmin(losses) < -0.5  # and then without bound, to infinity
    assert int(server.perturbations) >= 1
    beside = surface(saddles.monkey_saddle(), [0.05, 0.0])  # on the ridge: descent goes to zero
    _, plain, _ = train(fedsgd(optax.sgd(0.1)), beside, PLAIN)
    assert 0 <= plain[-1] < plain[0]
    _, losses, server = train(negative_curvature(optax.sgd(0.1)), beside, NEGATIVE)
    assert np.nanmin(losses) < -0.5  # and then without bound, to infinity
    assert int(server.leaps) >= 1


def test_curvature_steps_never_stay_where_the_loss_rose(x64):
    """A first guess of M fifty times too small: tried lengths fail until one descends."""
    problem = surface(saddles.double_well(1.0), [0.0, 0.0])
    recipe = negative_curvature(optax.sgd(0.05), lipschitz=0.1)
    _, losses, server = train(recipe, problem, 200)
    tried = np.flatnonzero(losses > 1e-9)
    assert len(tried) >= 1
    settled = losses[tried[-1] + 1 :]
    assert (np.diff(settled) <= 1e-12).all()
    assert settled[0] < 0
    assert abs(settled[-1] + 0.25) < 1e-3
    assert int(server.leaps) >= 2  # the first paid, so the next followed at once


@pytest.mark.slow
def test_a_minimum_is_left_alone_by_curvature_and_kept_within_the_ball_by_noise(x64):
    problem = surface(saddles.double_well(1.0), [0.0, 1.0])
    _, losses, server = train(negative_curvature(optax.sgd(0.1)), problem, 200)
    assert int(server.leaps) == 0
    np.testing.assert_allclose(losses, -0.25, rtol=1e-12)
    shaken = perturbed(
        optax.sgd(0.1), radius=0.05, threshold=1e-3, wait=20.0, steps=1, batch_size=None
    )
    params, losses, server = train(shaken, problem, 200)
    assert int(server.perturbations) >= 3
    assert losses.max() < -0.25 + 1.1 * 0.05**2  # |H| <= 2 at the minimum
    assert np.linalg.norm(np.asarray(params["x"]) - [0, 1]) <= 0.05


def test_the_rayleigh_quotient_becomes_the_lowest_eigenvalue(x64):
    """At a saddle that is not left, for the tolerance forbids it; then a new vector is drawn."""
    task, data = linear_network()
    run = run_of(negative_curvature(optax.sgd(0.1), tolerance=1e3), (task, data))
    step, state, seen = run.compiled(1), run.start(KEY), []
    for _ in range(30):
        state, _ = step(KEY, state, 1)
        seen.append(float(state.algorithm.server.rayleigh))
    lowest = -np.linalg.svd(np.asarray(data.y).T @ np.asarray(data.x) / 40, compute_uv=False)[0]
    best = int(np.argmin(seen))
    assert abs(seen[best] - lowest) < 1e-9 * abs(lowest)
    assert best < 25
    assert max(seen[best:]) > lowest / 2
