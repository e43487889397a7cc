"""Fair algorithms: NumPy oracles over ragged rounds, closed forms of a toy federation, equalities.

Toy federation: f_i(x) = a_i (x - b_i)^2 / 2 with a = (1, 4), b = (0, 1), equal weights.
"""

import jax
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
from oracles import fair as oracle
from oracles.federated import Client
from oracles.federated import fedavg as averaged
from scipy.optimize import brentq

from fedjax_sim.algorithms import afl, fedmgda, qfedavg, term
from fedjax_sim.core.checks import InputError
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.plan import Plan
from fedjax_sim.sampling.uniform import uniform

SIZES = [7, 1, 12, 20, 5, 3, 16]
GROUPS = [0, 0, 1, 2, 1, 2, 2]
ROUNDS, RATE = 4, 0.3
KEY = jax.random.key(11)
START = np.random.default_rng(1).normal(size=DIM * CLASSES + CLASSES)
RULE = Batches(epochs=2, size=4, shuffle=False)
SETTING = {"lr": RATE, "epochs": 2, "batch_size": 4, "shuffle": False}
SCRIPT = script(ROUNDS, 4, len(SIZES), seed=3)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def sgd(lr):
    return optax.sgd(lr)


def rounds_of(data):
    """The oracle's view of the scripted rounds: who is present, with its index lists."""
    found = []
    for r in range(ROUNDS):
        clients = []
        for i, here, share in zip(*(v[r] for v in SCRIPT), strict=True):
            x, y = window(data, i)
            rows = orders(RULE, KEY, r, int(i), len(y), data.longest, share)
            clients += [Client(int(i), x, y, rows)] if here else []
        found.append(clients)
    return found


def simulate(recipe, plan=Plan(2, 2), hyper=None):  # noqa: B008 - frozen
    run = Run.of(recipe, softmax_task(START), softmax_data(SIZES), SCRIPT.sampler(), plan)
    return run, run.simulate(KEY, ROUNDS, hyper)


@pytest.fixture(scope="module")
def rounds():
    with jax.enable_x64(True):
        return rounds_of(softmax_data(SIZES))


def test_q_fedavg_is_the_papers_algorithm_and_at_zero_uniform_fedavg(x64, rounds):
    """Three exponents in one program; q = 0 to the last bit but rounding."""
    recipe = qfedavg(sgd, q=1.0, rate=RATE, **SETTING)
    run = Run.of(recipe, softmax_task(START), softmax_data(SIZES), SCRIPT.sampler(), Plan(2, 2))
    step, ends = run.compiled(ROUNDS), {}
    for q in (0.0, 0.5, 1.0, 5.0):
        state, _ = step(KEY, run.start(KEY, {"q": q}), ROUNDS)
        ends[q] = flat(run.model(state))
        want = oracle.qfedavg(START, rounds, CLASSES, RATE, q)
        np.testing.assert_allclose(ends[q], want[-1], err_msg=f"q = {q}", **CLOSE)
    assert step._cache_size() == 1
    plain = averaged(START, rounds, CLASSES, RATE, weighting="uniform")
    np.testing.assert_allclose(ends[0.0], plain[-1], **CLOSE)
    assert np.abs(ends[5.0] - ends[0.0]).max() > 1e-2


def test_term_is_the_papers_weights_and_streams_any_tilt(x64, rounds):
    recipe = term(sgd, t=1.0, weighting="examples", **SETTING)
    run = Run.of(recipe, softmax_task(START), softmax_data(SIZES), SCRIPT.sampler(), Plan(2, 2))
    step = run.compiled(ROUNDS)
    for t in (0.0, 1.0, -2.0, 20.0):
        state, records = step(KEY, run.start(KEY, {"t": t}), ROUNDS)
        want = oracle.term(START, rounds, CLASSES, RATE, t, weighting="examples")
        np.testing.assert_allclose(flat(run.model(state)), want[-1], err_msg=f"t = {t}", **CLOSE)
    plain = averaged(START, rounds, CLASSES, RATE)
    state, records = step(KEY, run.start(KEY, {"t": 0.0}), ROUNDS)
    np.testing.assert_allclose(flat(run.model(state)), plain[-1], **CLOSE)
    shares = np.array([len(c.y) for c in rounds[0]], float)
    few = shares.sum() ** 2 / (shares**2).sum()
    np.testing.assert_allclose(records["effective_clients"][0], few, rtol=1e-12)
    # exp(2000 F) is no number, and the worst client of the round decides alone.
    state, records = step(KEY, run.start(KEY, {"t": 2000.0}), ROUNDS)
    np.testing.assert_allclose(records["effective_clients"][:ROUNDS], 1, rtol=1e-6)
    worst = oracle.losses_of(START, rounds[0], CLASSES).argmax()
    alone = oracle.term(START, [[rounds[0][worst]]], CLASSES, RATE, 0.0)
    first, _ = step(KEY, run.start(KEY, {"t": 2000.0}), 1)
    np.testing.assert_allclose(flat(run.model(first)), alone[-1], **CLOSE)


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["clients", "groups"])
def test_afl_with_its_mixture(x64, rounds, groups):
    """Domains that a round does not hear, stragglers, and shares that reach 0."""
    recipe = afl(sgd, groups=groups, lambda_rate=1.5, **SETTING)
    run, (state, _) = simulate(recipe)
    owner = list(range(len(SIZES))) if groups is None else groups
    path, shares = oracle.afl(START, rounds, CLASSES, RATE, 1.5, owner, max(owner) + 1)
    np.testing.assert_allclose(flat(run.model(state)), path[-1], **CLOSE)
    np.testing.assert_allclose(state.algorithm.server.shares, shares, **CLOSE)
    assert abs(float(state.algorithm.server.shares.sum()) - 1) < 1e-12
    assert (shares == 0).any()


def test_fedmgda_is_the_shortest_mixture_and_at_zero_the_mean_of_directions(x64, rounds):
    recipe = fedmgda(sgd, epsilon=0.1, server=optax.sgd(0.5), **SETTING)
    run = Run.of(recipe, softmax_task(START), softmax_data(SIZES), SCRIPT.sampler(), Plan(2, 2))
    step = run.compiled(ROUNDS)
    for epsilon in (0.0, 0.1, 1.0):
        state, _ = step(KEY, run.start(KEY, {"epsilon": epsilon}), ROUNDS)
        want = oracle.fedmgda(START, rounds, CLASSES, RATE, epsilon, 0.5)
        # SLSQP is the less precise of the two.
        got = flat(run.model(state))
        np.testing.assert_allclose(got, want[-1], rtol=1e-5, atol=1e-6, err_msg=f"{epsilon}")
        if epsilon == 0:
            np.testing.assert_allclose(got, want[-1], **CLOSE)


ONE_STEP = {"steps": 1, "batch_size": 1, "shuffle": False}


def toy(recipe, rounds, hypers):
    """x at the end of `rounds`, for each setting of the numbers, from one program."""
    data = shards(np.array([[1.0], [4.0]]), np.array([[0.0], [1.0]]), [1, 1])
    run = Run.of(recipe, quadratic_task(), data, uniform(2, 2), Plan())
    step = run.compiled(rounds)
    ends = [run.model(step(KEY, run.start(KEY, h), rounds)[0])["x"][0] for h in hypers]
    return [float(x) for x in ends]


QFFL = {0.0: 0.8, 1.0: 0.715896347, 2.0: 0.696730455, 5.0: 0.680519570}


def test_q_ffl_reaches_its_minimiser(x64):
    """x = t / (1 + t), t = 4^((q + 1) / (2 q + 1)); to nine digits, and 2/3 in the limit."""
    recipe = qfedavg(sgd, lr=0.2, rate=0.2, q=1.0, **ONE_STEP)
    found = toy(recipe, 2000, [{"q": q} for q in [*QFFL, 300.0]])
    for (q, printed), x in zip(QFFL.items(), found, strict=False):
        t = 4 ** ((q + 1) / (2 * q + 1))
        assert abs(t / (1 + t) - printed) < 1e-9
        assert abs(x - printed) < 2e-9, f"q = {q}"
    assert abs(found[-1] - 2 / 3) < 1e-3


def test_afl_reaches_the_worst_mixtures_best(x64):
    """x = 2/3 with lambda = (2/3, 1/3): both losses are 2/9."""
    recipe = afl(sgd, lr=0.2, lambda_rate=0.5, **ONE_STEP)
    (x,) = toy(recipe, 3000, [None])
    assert abs(x - 2 / 3) < 1e-9


def test_term_reaches_the_zero_of_its_tilted_gradient(x64):
    def slope(x, t):
        f = np.array([x**2 / 2, 2 * (x - 1) ** 2])
        return np.exp(t * (f - f.max())) @ [x, 4 * (x - 1)]

    tilts = [-1.0, 0.0, 1.0, 10.0, 100.0]
    recipe = term(sgd, lr=0.02, t=1.0, **ONE_STEP)
    for t, x in zip(tilts, toy(recipe, 3000, [{"t": t} for t in tilts]), strict=True):
        assert abs(x - brentq(slope, 0, 1, args=(t,), xtol=1e-14)) < 1e-9, f"t = {t}"
        assert t or abs(x - 0.8) < 1e-12


def test_fedmgda_stops_between_the_two_optima_and_no_client_loses_by_a_step(x64):
    """In one dimension directions are signs: opposite between b = 0 and 1, where d is 0."""
    recipe = fedmgda(sgd, lr=0.1, epsilon=1.0, server=optax.sgd(0.03), **ONE_STEP)
    data = shards(np.array([[1.0], [4.0]]), np.array([[0.2], [1.0]]), [1, 1])
    run = Run.of(recipe, quadratic_task(), data, uniform(2, 2), Plan())
    step, state = run.compiled(12), run.start(KEY)
    path = [float(run.model(step(KEY, state, r)[0])["x"][0]) for r in range(12)]
    np.testing.assert_allclose(path[:7], 0.03 * np.arange(7), atol=1e-12)
    np.testing.assert_allclose(path[7:], 0.21, atol=1e-9)


def test_a_client_without_loss_is_safe_and_left_alone(x64):
    """F = 0 with q below 1, where the paper's h has 0^(q-1): the others decide."""
    data = shards(np.ones((3, 1)), np.array([[0.0], [1.0], [2.0]]), [1, 1, 1])
    run = Run.of(
        qfedavg(sgd, lr=0.1, q=0.5, rate=0.1, **ONE_STEP),
        quadratic_task(), data, uniform(3, 3), Plan(),
    )  # fmt: skip
    step = run.compiled(1)
    x = float(run.model(step(KEY, run.start(KEY), 1)[0])["x"][0])
    f, grad, big = np.array([0.5, 2.0]), np.array([-1.0, -2.0]), 10.0
    want = -(f**0.5 @ grad) / (0.5 * f**-0.5 @ grad**2 + big * np.sum(f**0.5))
    # The one without loss counts as 1e-10 in h.
    assert abs(x - want) < 1e-4
    for q in (0.0, 1.0, 3.0):
        assert np.isfinite(run.model(step(KEY, run.start(KEY, {"q": q}), 1)[0])["x"]).all()


def test_groups_of_afl_are_checked():
    for bad in ([0.5, 1.0], [[0, 1]], [-1, 0], []):
        with pytest.raises(InputError, match=r"algorithm\.groups"):
            afl(optax.sgd(0.1), groups=bad)
