"""Perturbed descent and negative-curvature steps against their NumPy oracles, round by round."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Run, assert_trees_close, assert_trees_equal, script, shards, window
from oracles import escape as oracle
from scipy import stats
from sparing import few

from fedjax_sim.algorithms import fedavg, fedsgd, negative_curvature, perturbed
from fedjax_sim.clients.curvature import Curved
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Aggregate, Model
from fedjax_sim.engine.plan import Plan
from fedjax_sim.server import directions, ritz
from fedjax_sim.server.curvature import server_curvature
from fedjax_sim.server.escape import server_perturbed
from fedjax_sim.tasks import saddle_networks

KEY = jax.random.key(5)
IN, HIDDEN, OUT = 4, 3, 2
SIZES = (7, 3, 12, 5)
SPLIT = IN * HIDDEN
CLOSE = {"rtol": 1e-7, "atol": 1e-9}


def federation(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(sum(SIZES), IN))
    y = x @ rng.normal(size=(IN, OUT)) + 0.3 * rng.normal(size=(len(x), OUT))
    return shards(x, y, SIZES)


def server_key(round_index):
    """The key law in numbers: server id 2^32 - 1, purpose 9."""
    of_round = jax.random.fold_in(KEY, round_index)
    return jax.random.fold_in(jax.random.fold_in(of_round, np.uint32(2**32 - 1)), 9)


def sphere(key):
    """A unit draw for params {w1, w2}, flat."""
    shapes = [(IN, HIDDEN), (HIDDEN, OUT)]
    draws = [
        np.ravel(jax.random.normal(jax.random.fold_in(key, i), s, float))
        for i, s in enumerate(shapes)
    ]
    whole = np.concatenate(draws)
    return whole / np.linalg.norm(whole)


def flat(params):
    return np.concatenate([np.ravel(params["w1"]), np.ravel(params["w2"])])


def split(vector):
    return vector[:SPLIT].reshape(IN, HIDDEN), vector[SPLIT:].reshape(HIDDEN, OUT)


def path_of(run, rounds):
    """Models after each round, `[rounds, P]`, and the last server state."""
    step, state, path = run.compiled(1), run.start(KEY), []
    for _ in range(rounds):
        state, _ = step(KEY, state, 1)
        path.append(flat(run.model(state)))
    return np.array(path), state.algorithm.server


SCRIPT = script(60, 3, len(SIZES), seed=2)
WHOLE = SCRIPT._replace(work=np.ones_like(SCRIPT.work))


def members_of(data, round_index):
    """Examples of all present members of a scripted round, pooled."""
    ids, present = WHOLE.ids[round_index], WHOLE.present[round_index]
    parts = [window(data, i) for i in ids[present]]
    return (np.concatenate(v) for v in zip(*parts, strict=True))


def test_perturbed_descent_equals_its_oracle(x64):
    """Full-batch single steps: the update is rate x gradient over the members' examples."""
    data, rate, rounds = federation(), 0.2, 25
    task = saddle_networks.deep_linear(IN, HIDDEN, OUT)
    recipe = perturbed(
        optax.sgd(rate), radius=0.3, threshold=0.15, wait=4, steps=1, batch_size=None
    )
    run = Run.of(recipe, task, data, WHOLE.sampler(), Plan(2, 2))
    got, server = path_of(run, rounds)

    def update(x, r):
        return rate * np.concatenate(
            [v.ravel() for v in oracle.deep_linear(*split(x), *members_of(data, r))]
        )

    p = SPLIT + HIDDEN * OUT
    noise = []
    for r in range(rounds):
        key = server_key(r)
        radius = 0.3 * float(jax.random.uniform(jax.random.fold_in(key, 1))) ** (1 / p)
        noise.append(radius * sphere(jax.random.fold_in(key, 0)))
    want, shaken = oracle.perturbed(np.zeros(p), update, rounds, noise, threshold=0.15, wait=4)
    assert 2 <= len(shaken) < rounds / 5 + 1
    assert int(server.perturbations) == len(shaken)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("lipschitz", [3.0, 0.05])  # the smaller guess overshoots at first
def test_negative_curvature_equals_its_oracle(x64, lipschitz):
    """From the zero saddle, all clients: descent, recurrence, leaps and their shortening."""
    data, rate, rounds = federation(), 0.1, 40
    full = script(rounds, len(SIZES), len(SIZES), ragged=False)
    task = saddle_networks.deep_linear(IN, HIDDEN, OUT)
    numbers = {"threshold": 0.1, "tolerance": 0.05, "lipschitz": lipschitz, "probes": 6}
    recipe = negative_curvature(optax.sgd(rate), **numbers)
    run = Run.of(recipe, task, data, full.sampler(), Plan(2, 2))
    got, server = path_of(run, rounds)

    x, y = np.asarray(data.x), np.asarray(data.y)
    model = oracle.NegativeCurvature(np.zeros(SPLIT + HIDDEN * OUT), rate, **numbers)

    def gradient(v):
        return np.concatenate([g.ravel() for g in oracle.deep_linear(*split(v), x, y)])

    def product(v, d):
        pair = oracle.deep_linear_product(*split(v), *split(d), x, y)
        return np.concatenate([h.ravel() for h in pair])

    for r in range(rounds):
        key = server_key(r)
        coin = 1 if bool(jax.random.bernoulli(jax.random.fold_in(key, 1))) else -1
        model.round(gradient, product, sphere(jax.random.fold_in(key, 0)), coin)
        np.testing.assert_allclose(got[r], model.x, **CLOSE, err_msg=f"round {r}")
    assert model.leaps >= 1
    assert int(server.leaps) == model.leaps
    np.testing.assert_allclose(server.lipschitz, model.m, rtol=1e-6)


def test_the_oracles_derivatives_are_derivatives():
    rng = np.random.default_rng(1)
    w1, w2, d1, d2 = (rng.normal(size=s) for s in [(IN, HIDDEN), (HIDDEN, OUT)] * 2)
    x, y = rng.normal(size=(9, IN)), rng.normal(size=(9, OUT))

    def loss(t):
        return 0.5 * np.mean(np.sum((x @ (w1 + t * d1) @ (w2 + t * d2) - y) ** 2, axis=1))

    g = oracle.deep_linear(w1, w2, x, y)
    slope = sum(np.sum(a * b) for a, b in zip(g, (d1, d2), strict=True))
    np.testing.assert_allclose(slope, (loss(1e-5) - loss(-1e-5)) / 2e-5, rtol=1e-7)
    h = oracle.deep_linear_product(w1, w2, d1, d2, x, y)
    after, before = (oracle.deep_linear(w1 + t * d1, w2 + t * d2, x, y) for t in (1e-5, -1e-5))
    for got, a, b in zip(h, after, before, strict=True):
        np.testing.assert_allclose(got, (a - b) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_no_radius_is_fedavg(x64):
    """Bitwise, while perturbations of length zero are counted."""
    data = federation()
    task = saddle_networks.deep_linear(IN, HIDDEN, OUT, start="normal")
    local = {"epochs": 2, "batch_size": 4, "server": optax.sgd(0.7, momentum=0.5)}
    quiet = perturbed(optax.sgd(0.1), radius=0.0, threshold=1e9, wait=1, **local)
    models, states = [], []
    for recipe in (quiet, fedavg(optax.sgd(0.1), **local)):
        run = Run.of(recipe, task, data, SCRIPT.sampler(), Plan(2, 1))
        states.append(run.simulate(KEY, 5)[0])
        models.append(run.model(states[-1]))
    assert_trees_equal(*models)
    assert int(states[0].algorithm.server.perturbations) == 3  # rounds 0, 2 and 4


@pytest.mark.slow
def test_no_threshold_is_fedsgd(x64):
    """Curvature is followed by nobody where no gradient is small; momentum goes on."""
    data = federation()
    task = saddle_networks.deep_linear(IN, HIDDEN, OUT, start="normal")
    opt, models = optax.sgd(0.1, momentum=0.8), []
    for recipe in (negative_curvature(opt, threshold=0.0), fedsgd(opt)):
        run = Run.of(recipe, task, data, WHOLE.sampler(), Plan(2, 1))
        models.append(run.model(run.simulate(KEY, 8)[0]))
    assert_trees_close(*models, rtol=1e-12, atol=1e-14)


LIKE = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}


def test_the_ball_is_filled_uniformly(x64):
    """`(|b| / radius)^P` is uniform, and one squared coordinate of b/|b| is a beta variable."""
    draw = jax.jit(jax.vmap(lambda k: directions.in_ball(k, LIKE, 0.5)))
    points = draw(jax.random.split(jax.random.key(3), 4000))
    rows = np.concatenate([np.reshape(points["a"], (-1, 6)), points["b"]], axis=1)
    lengths = np.linalg.norm(rows, axis=1)
    assert stats.kstest((lengths / 0.5) ** 10, "uniform").pvalue > 1e-3
    for column in (0, 5, 9):
        share = (rows[:, column] / lengths) ** 2
        assert stats.kstest(share, stats.beta(0.5, 4.5).cdf).pvalue > 1e-3
    assert abs(np.mean(np.sign(rows))) < 4 / np.sqrt(rows.size)


@pytest.mark.parametrize("p", [2, 3, 40])
def test_the_recurrence_finds_the_lowest_eigenvector(x64, p):
    """Exactly after P products where P <= 3; else about as fast as Lanczos does."""
    rng = np.random.default_rng(p)
    basis = np.linalg.qr(rng.normal(size=(p, p)))[0]
    values = np.sort(rng.uniform(-1, 5, p))
    h = jnp.asarray(basis @ np.diag(values) @ basis.T)
    start = rng.normal(size=p)
    state = ritz.start({"x": jnp.asarray(start / np.linalg.norm(start))})
    quotients = []
    for _ in range(p if p <= 3 else 25):
        state = ritz.absorb(state, {"x": h @ state.asked["x"]})
        value, residual = ritz.quotient(state)
        quotients.append(float(value))
        assert np.min(np.abs(values - value)) <= residual + 1e-12
        state = ritz.proceed(state)
    assert np.all(np.diff(quotients) <= 1e-13)
    if p <= 3:
        assert abs(quotients[-1] - values[0]) < 1e-12
    else:
        krylov = np.linalg.qr(
            np.stack([np.linalg.matrix_power(np.asarray(h), i) @ start for i in range(13)], 1)
        )[0]
        lanczos = np.linalg.eigvalsh(krylov.T @ h @ krylov)[0]
        assert quotients[24] <= lanczos + 1e-9  # twice the products of Lanczos at most
        assert quotients[24] - values[0] < 1e-3 * (values[-1] - values[0])


MODEL = Model({"x": jnp.array([1.0, 2.0])}, {"mean": jnp.array(3.0)})


def servers():
    return {
        "perturbed": server_perturbed(optax.adam(0.1), radius=0.1, threshold=9.0, wait=3),
        "curvature": server_curvature(
            optax.adam(0.1), threshold=9.0, tolerance=0.0, lipschitz=1.0, probes=4
        ),
    }


def told(name, update, product, weight=1.0):
    whole = update if name == "perturbed" else Curved(update, product)
    return Aggregate(whole, jnp.asarray(weight), jnp.int32(weight > 0), {})


@pytest.mark.parametrize("name", few(["perturbed", "curvature"], "curvature"))
def test_nobody_heard_keeps_everything_bitwise(name):
    server = servers()[name]
    state = server.init(MODEL, 5)
    move = Model({"x": jnp.array([0.5, -1.0])}, {"mean": jnp.array(1.0)})
    for r in range(2):
        state = server.update(state, told(name, move, {"x": jnp.ones(2)}), jax.random.key(r))
    bad = jax.tree.map(lambda v: v * jnp.nan, move)
    silent = told(name, bad, bad.params, weight=0.0)
    assert_trees_equal(server.update(state, silent, KEY), state)


@pytest.mark.parametrize("name", ["perturbed", "curvature"])
def test_batch_statistics_move_plainly(name):
    server = servers()[name]
    move = Model({"x": jnp.array([0.0, 0.0])}, {"mean": jnp.array(1.0)})
    state = server.update(server.init(MODEL, 5), told(name, move, {"x": jnp.zeros(2)}), KEY)
    np.testing.assert_allclose(server.model(state).state["mean"], 2.0)


@pytest.mark.parametrize("name", few(["perturbed", "curvature"], "perturbed"))
def test_rescaling_shortens_the_optimizers_steps(name):
    server = servers()[name]
    first = server.init(MODEL, 5)
    move = Model({"x": jnp.array([20.0, -30.0])}, {"mean": jnp.array(0.0)})  # nothing is small
    steps = []
    for state in (first, server.rescale(first, jnp.asarray(0.25))):
        after = server.update(state, told(name, move, {"x": jnp.zeros(2)}), KEY)
        steps.append(server.model(after).params["x"] - MODEL.params["x"])
    np.testing.assert_allclose(steps[1], 0.25 * steps[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("radius", -0.1), ("threshold", float("nan")), ("wait", -1), ("lipschitz", 0.0)],
)
def test_bad_numbers_are_refused(field, value):
    recipe = negative_curvature if field == "lipschitz" else perturbed
    with pytest.raises(InputError, match=field):
        recipe(optax.sgd(0.1), **{field: value})
