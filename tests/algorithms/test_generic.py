"""Momentum over rounds and other losses: NumPy oracles, fixed points, equalities, refusals.

One compiled program an algorithm; the numbers that change are traced.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    CLASSES,
    DIM,
    Run,
    flat,
    orders,
    quadratic_task,
    script,
    shards,
    softmax_data,
    softmax_task,
    window,
)
from oracles import generic as oracle
from oracles.federated import Client, fedavg

from fedjax_sim import tasks
from fedjax_sim.algorithms.fedacg import fedacg
from fedjax_sim.algorithms.fedcm import fedcm
from fedjax_sim.algorithms.fedexp import fedexp
from fedjax_sim.algorithms.fedlc import fedlc
from fedjax_sim.algorithms.fedntd import fedntd
from fedjax_sim.algorithms.moon import moon
from fedjax_sim.clients.losses import forward, score
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Batch, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.plan import Plan
from fedjax_sim.sampling.uniform import uniform

SIZES = [7, 1, 12, 20, 5, 3, 16]  # partial batches under B = 4, one client below B
ROUNDS, RATE = 4, 0.3
KEY = jax.random.key(11)
START = np.random.default_rng(1).normal(size=DIM * CLASSES + CLASSES)
RULE = Batches(epochs=2, size=4, shuffle=False)
SETTING = {"lr": RATE, "epochs": 2, "batch_size": 4, "shuffle": False}
SCRIPT = script(ROUNDS, 4, len(SIZES), seed=3)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def sgd(lr):
    return optax.sgd(lr)


@pytest.fixture(scope="module")
def rounds():
    """The oracle's view of the scripted rounds: who is present, with its index lists."""
    with jax.enable_x64(True):
        data, found = softmax_data(SIZES), []
        for r in range(ROUNDS):
            clients = []
            for i, here, share in zip(*(v[r] for v in SCRIPT), strict=True):
                x, y = window(data, i)
                rows = orders(RULE, KEY, r, int(i), len(y), data.longest, share)
                clients += [Client(int(i), x, y, rows)] if here else []
            found.append(clients)
        return found


def program(recipe, plan=Plan()):  # noqa: B008 - frozen
    """`hyper -> (end state, its params, records)`, compiled once."""
    run = Run.of(recipe, softmax_task(START), softmax_data(SIZES), SCRIPT.sampler(), plan)
    step = run.compiled(ROUNDS)

    def call(**hyper):
        state, records = step(KEY, run.start(KEY, hyper), ROUNDS)
        assert step._cache_size() == 1
        return state, flat(run.model(state)), records

    return call


def test_fedcm_is_the_papers_and_at_alpha_one_fedavg(x64, rounds):
    run = program(fedcm(sgd, alpha=0.3, server_rate=0.8, **SETTING), Plan(2, 1))
    state, x, _ = run()
    want, momentum = oracle.fedcm(START, rounds, CLASSES, RATE, 0.3, server_rate=0.8)
    np.testing.assert_allclose(x, want[-1], **CLOSE)
    np.testing.assert_allclose(flat(state.algorithm.server.momentum), momentum, **CLOSE)
    _, x, _ = run(alpha=1.0, server_rate=1.0)
    plain = fedavg(START, rounds, CLASSES, RATE, weighting="uniform")
    np.testing.assert_allclose(x, plain[-1], **CLOSE)


def test_fedacg_is_the_papers_and_without_momentum_fedprox(x64, rounds):
    run = program(fedacg(sgd, momentum=0.6, beta=0.5, **SETTING))
    want = oracle.fedacg(START, rounds, CLASSES, RATE, 0.6, 0.5)
    np.testing.assert_allclose(run()[1], want[-1], **CLOSE)
    prox = fedavg(START, rounds, CLASSES, RATE, weighting="uniform", mu=0.5)
    np.testing.assert_allclose(run(momentum=0.0)[1], prox[-1], **CLOSE)


def test_fedexp_is_the_papers_and_for_a_large_epsilon_fedavg(x64, rounds):
    """Three rounds are stretched and one is not."""
    run = program(fedexp(sgd, epsilon=1e-3, weighting="examples", **SETTING), Plan(2, 1))
    _, x, records = run()
    want, rates = oracle.fedexp(START, rounds, CLASSES, RATE, 1e-3, weighting="examples")
    np.testing.assert_allclose(x, want[-1], **CLOSE)
    np.testing.assert_allclose(records["server_rate"][:ROUNDS], rates, **CLOSE)
    assert max(rates) > 1
    np.testing.assert_allclose(
        run(epsilon=1e3)[1], fedavg(START, rounds, CLASSES, RATE)[-1], **CLOSE
    )
    assert np.isfinite(run(epsilon=0.0)[1]).all()


LOSSES = {
    "fedlc": (fedlc, oracle.fedlc, {"tau": 0.7}, {"tau": 0.0}),
    "fedntd": (fedntd, oracle.fedntd, {"beta": 0.8, "tau": 1.7}, {"beta": 0.0}),
    "moon": (moon, lambda *a: oracle.moon(*a)[0], {"mu": 2.0, "tau": 0.6}, {"mu": 0.0}),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_the_papers_and_without_its_strength_fedavg(x64, rounds, name):
    builder, paper, numbers, none = LOSSES[name]
    run = program(builder(sgd, **numbers, **SETTING), Plan(2, 1) if name == "moon" else Plan())
    state, x, _ = run()
    want = paper(START, rounds, CLASSES, RATE, *numbers.values())
    np.testing.assert_allclose(x, want[-1], **CLOSE)
    plain = fedavg(START, rounds, CLASSES, RATE)[-1]
    assert np.abs(x - plain).max() > 1e-4
    np.testing.assert_allclose(run(**none)[1], plain, **CLOSE)
    if name == "moon":
        _, last = oracle.moon(START, rounds, CLASSES, RATE, 2.0, 0.6)
        for i in range(len(SIZES)):
            assert int(state.rows.rounds[i]) == sum(c.id == i for r in rounds for c in r)
            row = flat({n: v[i] for n, v in state.rows.model.params.items()})
            np.testing.assert_allclose(row, last.get(i, START), **CLOSE)


A, B = np.array([1.0, 4.0]), np.array([0.0, 1.0])
ONE = {"batch_size": 1, "shuffle": False}


def final(recipe, rounds, **hyper):
    """x of f_i = a_i (x - b_i)^2 / 2, a = (1, 4), b = (0, 1), after so many rounds."""
    data = shards(A[:, None], B[:, None], [1, 1])
    run = Run.of(recipe, quadratic_task(), data, uniform(2, 2), Plan())
    state, _ = run.compiled(rounds)(KEY, run.start(KEY, hyper), rounds)
    return float(run.model(state)["x"][0])


def test_fedcm_stops_where_fedavg_of_the_smaller_rate_does(x64):
    """The momentum dies out, and what is left is a rate of alpha eta: .692502347 for .2 x .5."""
    x = final(fedcm(sgd, lr=0.5, alpha=0.2, steps=5, **ONE), 2000)
    c = 1 - (1 - 0.1 * A) ** 5
    assert abs(np.sum(c * B) / np.sum(c) - 0.692502347) < 1e-9
    assert abs(x - np.sum(c * B) / np.sum(c)) < 1e-11


def test_fedacg_stops_where_fedprox_does_and_sooner(x64):
    """.615384615 for beta = 1; the momentum changes the way and not the end."""
    x = final(fedacg(sgd, lr=0.06, momentum=0.5, beta=1.0, steps=500, **ONE), 300)
    assert abs(x - 0.615384615) < 1e-9


def test_a_task_without_what_a_loss_needs_is_refused():
    with pytest.raises(InputError, match="logits"):
        final(fedntd(sgd, lr=0.1, **ONE), 1)
    with pytest.raises(InputError, match="one label"):
        final(fedlc(sgd, lr=0.1, **ONE), 1)
    with pytest.raises(InputError, match=r"Task\.features"):
        final(moon(sgd, lr=0.1, **ONE), 1)
    with pytest.raises(InputError, match="representation"):
        moon(sgd, lr=0.1, representation="hidden")
    with pytest.raises(InputError, match="alpha"):
        fedcm(sgd, lr=0.1, alpha=0.0)


def test_moon_compares_outputs_where_told_so():
    assert np.isfinite(final(moon(sgd, lr=0.1, representation="outputs", **ONE), 2))


X = np.linspace(-1, 2, 24).reshape(6, 4).astype(np.float32)
BATCH = Batch(jnp.asarray(X), jnp.array([0, 1, 2, 0, 1, 2]), jnp.array([1, 1, 1, 1, 1, 0]) > 0)


def test_a_pass_in_training_mode_is_the_one_of_the_loss():
    """Batch norm: the state moves, the scores agree, padding rows show 0 and reach nothing."""
    task = tasks.classifier(tasks.models.mlp(5, norm="batch"), 3, x_shape=(4,))
    model = task.init(KEY)
    value, state = task.loss(KEY, model, BATCH)
    found = forward(task, KEY, model, BATCH)
    assert float(score(task, found.outputs, BATCH)) == pytest.approx(float(value), rel=1e-6)
    jax.tree.map(np.testing.assert_array_equal, found.state, state)
    assert found.features.shape == (6, 5)
    np.testing.assert_array_equal(found.features[-1], 0)
    spoiled = BATCH._replace(x=BATCH.x.at[-1].set(jnp.nan))
    again = forward(task, KEY, model, spoiled)
    np.testing.assert_array_equal(again.outputs, found.outputs)


def test_a_model_with_a_state_needs_a_pass_in_training_mode():
    task = softmax_task()
    with pytest.raises(InputError, match=r"Task\.forward"):
        forward(task, KEY, Model(task.init(KEY).params, jnp.zeros(1)), BATCH)
