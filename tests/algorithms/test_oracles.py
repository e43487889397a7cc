"""Every algorithm against its NumPy oracle: ragged clients, absent and partial members."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from helpers import CLASSES, DIM, Run, flat, orders, script, softmax_data, softmax_task, window
from oracles import federated as oracle
from oracles import servers
from sparing import few

from fedjax_sim.algorithms.baselines import centralized, local_only
from fedjax_sim.algorithms.fedavg import fedadagrad, fedadam, fedavg, fedavgm, fedyogi
from fedjax_sim.algorithms.fednova import fednova
from fedjax_sim.algorithms.fedprox import fedprox
from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.algorithms.median import median
from fedjax_sim.algorithms.scaffold import scaffold
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.plan import Plan

SIZES = [7, 1, 12, 20, 5, 3, 16]  # partial batches under B = 4, one client below B
ROUNDS, COHORT, RATE = 4, 4, 0.3
KEY = jax.random.key(11)
START = np.random.default_rng(1).normal(size=DIM * CLASSES + CLASSES)
RULE = Batches(epochs=2, size=4)
SETTING = {"lr": RATE, "epochs": 2, "batch_size": 4}
ORDERED = {"shuffle": False, **SETTING}  # compiles in half the time
SCRIPT = script(ROUNDS, COHORT, len(SIZES), seed=3)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def sgd(lr):
    return optax.sgd(lr)


def heavy(lr, momentum):
    return optax.sgd(lr, momentum=momentum)


def clients_of(data, round_index, rule=RULE):
    """The oracle's view of one scripted round: whoever is present, with its index lists."""
    ids, present, work = (v[round_index] for v in SCRIPT)
    chosen = []
    for i, here, share in zip(ids, present, work, strict=True):
        x, y = window(data, i)
        if here:
            rows = orders(rule, KEY, round_index, int(i), len(y), data.longest, share)
            chosen.append(oracle.Client(int(i), x, y, rows))
    return chosen


def simulate(recipe, plan=Plan(2, 2)):  # noqa: B008 - frozen
    run = Run.of(recipe, softmax_task(START), softmax_data(SIZES), SCRIPT.sampler(), plan)
    return run, run.simulate(KEY, ROUNDS)[0]


def rounds_of(data, rule=RULE):
    return [clients_of(data, r, rule) for r in range(ROUNDS)]


def test_the_script_has_what_the_oracles_are_held_to():
    """Absent members, stragglers and one-example clients occur; every round has two present."""
    assert not SCRIPT.present.all()
    assert (SCRIPT.present.sum(1) >= 2).all()
    assert ((SCRIPT.work < 1) & SCRIPT.present).any()
    assert set(np.flatnonzero(np.array(SIZES) < 4)) & set(SCRIPT.ids[SCRIPT.present])


CASES = {
    "fedavg": (fedavg(sgd, **SETTING), {}),
    "fedavg uniform": (fedavg(sgd, weighting="uniform", **ORDERED), {"weighting": "uniform"}),
    "fedavg by steps": (fedavg(sgd, weighting="steps", **ORDERED), {"weighting": "steps"}),
    "fedavg with momentum": (fedavg(heavy, momentum=0.7, **ORDERED), {"momentum": 0.7}),
    "fedprox": (fedprox(sgd, mu=0.8, **SETTING), {"mu": 0.8}),
    "fedavgm": (
        fedavgm(sgd, server_rate=0.7, server_momentum=0.9, **ORDERED),
        {"server": (servers.Momentum, (0.7, 0.9))},
    ),
    "fedadam": (
        fedadam(sgd, server_rate=0.05, b1=0.8, b2=0.95, tau=1e-2, **ORDERED),
        {"server": (servers.Adam, (0.05, 0.8, 0.95, 1e-2))},
    ),
    "fedyogi": (
        fedyogi(sgd, server_rate=0.05, b1=0.8, b2=0.95, tau=1e-2, **ORDERED),
        {"server": (servers.Yogi, (0.05, 0.8, 0.95, 1e-2))},
    ),
    "fedadagrad": (
        fedadagrad(sgd, server_rate=0.1, initial=0.01, tau=1e-2, **ORDERED),
        {"server": (servers.Adagrad, (0.1, 0.01, 1e-2))},
    ),
}


QUICK = [
    n for n in CASES if n not in ("fedavg uniform", "fedavg by steps", "fedyogi", "fedadagrad")
]


@pytest.mark.parametrize("name", few(CASES, *QUICK))
def test_averaging_family(x64, name):
    recipe, settings = CASES[name]
    if "server" in settings:
        rule, numbers = settings["server"]
        settings = settings | {"server": rule(*numbers)}
    run, state = simulate(recipe, Plan(1, 1) if name.startswith("fedavg ") else Plan(2, 2))
    rule = RULE if name in ("fedavg", "fedprox") else dataclasses.replace(RULE, shuffle=False)
    want = oracle.fedavg(START, rounds_of(run.data, rule), CLASSES, RATE, **settings)
    np.testing.assert_allclose(flat(run.model(state)), want[-1], **CLOSE)


@pytest.mark.parametrize("momentum", few([0.0, 0.6], 0.6))
def test_fednova(x64, momentum):
    recipe = fednova(lambda lr: optax.sgd(lr, momentum=momentum), momentum=momentum, **SETTING)
    run, state = simulate(recipe)
    data = rounds_of(run.data)
    want = oracle.fednova(START, data, CLASSES, RATE, momentum=momentum)
    np.testing.assert_allclose(flat(run.model(state)), want[-1], **CLOSE)


def test_scaffold_with_its_control_variates(x64):
    run, state = simulate(scaffold(sgd, server_rate=0.8, **SETTING))
    path, control, controls = oracle.scaffold(
        START, rounds_of(run.data), CLASSES, RATE, len(SIZES), server_rate=0.8
    )
    np.testing.assert_allclose(flat(run.model(state)), path[-1], **CLOSE)
    np.testing.assert_allclose(flat(state.algorithm.server.control), control, **CLOSE)
    np.testing.assert_allclose(flat(state.rows), controls, **CLOSE)


def test_median(x64):
    run, state = simulate(median(sgd, **SETTING))
    want = oracle.coordinate_median(START, rounds_of(run.data), CLASSES, RATE)
    np.testing.assert_allclose(flat(run.model(state)), want[-1], **CLOSE)


def test_fedsgd(x64):
    """At work = 1: a straggler's gradient would cover part of its batches only."""
    full = SCRIPT._replace(work=np.ones_like(SCRIPT.work))
    run = Run.of(
        fedsgd(sgd, lr=RATE), softmax_task(START), softmax_data(SIZES), full.sampler(), Plan(3, 2)
    )
    state, _ = run.simulate(KEY, ROUNDS)
    want = oracle.fedsgd(START, rounds_of(run.data), CLASSES, RATE)
    np.testing.assert_allclose(flat(run.model(state)), want[-1], **CLOSE)


@pytest.mark.parametrize("momentum", few([0.0, 0.9], 0.9))
def test_local_only(x64, momentum):
    """Each client's momentum goes on where it stopped, over the rounds it was present in."""
    run, state = simulate(local_only(heavy, momentum=momentum, **SETTING))
    data = rounds_of(run.data)
    for i in range(len(SIZES)):
        mine = [c for clients in data for c in clients if c.id == i]
        want = oracle.continued_sgd(START, mine, CLASSES, RATE, momentum)
        got = flat({n: v[i] for n, v in state.rows.model.params.items()})
        np.testing.assert_allclose(got, want[-1] if want else START, **CLOSE)


@pytest.mark.parametrize("momentum", few([0.0, 0.9], 0.9))
def test_centralized(x64, momentum):
    """Plain SGD on the union; its shuffle is keyed by the one member's id."""
    from fedjax_sim.sampling.uniform import uniform

    data = softmax_data(SIZES)
    sampler = uniform(1, len(SIZES))
    recipe = centralized(heavy, momentum=momentum, **SETTING)
    run = Run.of(recipe, softmax_task(START), data, sampler, Plan())
    state, _ = run.simulate(KEY, ROUNDS)
    clients, total = [], sum(SIZES)
    for r in range(ROUNDS):
        draw = jax.random.fold_in(
            jax.random.fold_in(jax.random.fold_in(KEY, r), np.uint32(2**32 - 1)), 3
        )
        who = int(sampler.sample(draw, (), r)[1].members.id[0])
        rows = orders(RULE, KEY, r, who, total, total, 1.0)
        clients.append(oracle.Client(who, np.asarray(data.x), np.asarray(data.y), rows))
    want = oracle.continued_sgd(START, clients, CLASSES, RATE, momentum)
    np.testing.assert_allclose(flat(run.model(state)), want[-1], **CLOSE)


def test_training_loss_is_the_mean_over_examples_seen(x64):
    """The record of round 0 against the oracle's losses on the way."""
    from oracles.softmax import gradient, loss

    data = softmax_data(SIZES)
    run = Run.of(fedavg(sgd, **SETTING), softmax_task(START), data, SCRIPT.sampler(), Plan(2, 1))
    _, records = run.simulate(KEY, 1)
    total = count = 0
    for client in clients_of(data, 0):
        y = START.copy()
        for rows in client.batches:
            total += len(rows) * loss(y, client.x[rows], client.y[rows], CLASSES)
            count += len(rows)
            y = y - RATE * gradient(y, client.x[rows], client.y[rows], CLASSES)
    np.testing.assert_allclose(records["train_loss"][0], total / count, rtol=1e-12)


def test_oracle_gradient_is_the_derivative_of_its_loss():
    from oracles.softmax import gradient, loss

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, DIM)), rng.integers(0, CLASSES, 9)
    step = 1e-6 * np.eye(START.size)
    slope = [(loss(START + e, x, y, CLASSES) - loss(START - e, x, y, CLASSES)) / 2e-6 for e in step]
    np.testing.assert_allclose(gradient(START, x, y, CLASSES), slope, atol=1e-8)
