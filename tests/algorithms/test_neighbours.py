"""FedAMP, FedFomo, FedALA, FedPHP and kNN-Per against NumPy, and where they are another method."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    CLASSES,
    DIM,
    Run,
    cohort_of,
    flat,
    orders,
    quick_jit,
    script,
    softmax_data,
    softmax_task,
    unflat,
    window,
)
from oracles import federated
from oracles import neighbours as oracle

from fedjax_sim.algorithms.fedala import fedala
from fedjax_sim.algorithms.fedamp import fedamp
from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.algorithms.fedfomo import fedfomo
from fedjax_sim.algorithms.fedphp import fedphp
from fedjax_sim.algorithms.knn_per import knn_per
from fedjax_sim.clients.ask import choose, held_out
from fedjax_sim.clients.neighbours import by_cosine
from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Context, Member, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine import plan as plans
from fedjax_sim.engine.bind import AlgorithmState
from fedjax_sim.engine.plan import Plan
from fedjax_sim.server.table import Table

SIZES = [7, 1, 12, 20, 5, 3, 16]  # partial batches under B = 4, two clients below B
N, ROUNDS, RATE, DECAY = len(SIZES), 4, 0.3, 0.5
KEY = jax.random.key(11)
START = np.random.default_rng(1).normal(size=DIM * CLASSES + CLASSES)
BIAS = np.arange(START.size) >= DIM * CLASSES
RULE = Batches(epochs=2, size=4, shuffle=False)
LOCAL = {"lr": RATE, "epochs": 2, "batch_size": 4, "shuffle": False}
SCRIPT = script(ROUNDS, 4, N, seed=3)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def sgd(lr):
    return optax.sgd(lr)


def heavy(lr, decay):
    return optax.sgd(lr, momentum=decay)


def rounds_of(data, sizes=SIZES, rule=RULE):
    """The oracle's view of the script; `sizes` are the examples that clients train on."""
    rounds = []
    for r in range(ROUNDS):
        chosen = zip(*(v[r] for v in SCRIPT), strict=True)
        here = [(int(i), share) for i, present, share in chosen if present]
        rounds.append(
            [
                federated.Client(
                    i, *window(data, i), orders(rule, KEY, r, i, sizes[i], data.longest, share)
                )
                for i, share in here
            ]
        )
    return rounds


class Made:
    """A bound recipe on the script, with one program for all of its numbers."""

    def __init__(self, recipe, plan=Plan(2, 2)):  # noqa: B008 - frozen
        task, data = softmax_task(START), softmax_data(SIZES)
        self.run = Run.of(recipe, task, data, SCRIPT.sampler(), plan)
        self.step = self.run.compiled(ROUNDS)
        self.hyper = recipe.hyper

    def __call__(self, rounds=ROUNDS, **hyper):
        numbers = {n: jnp.asarray(v, float) for n, v in (self.hyper | hyper).items()}
        return self.step(KEY, self.run.start(KEY, numbers), rounds)

    def model_of(self, state, client):
        member = Member(*(v[0] for v in cohort_of([client]).members))
        ctx, data = Context(KEY, jnp.int32(0), member), self.run.data.client(jnp.int32(client))
        row = tree.take(state.rows, client)
        return self.run.algorithm.model_of(ctx, state.algorithm, row, data)

    def own_models(self, state, kept=None):
        """Every client's model `[N, P]`: of the table, or of its row and else the shared one."""
        if kept is None:
            return flat(state.algorithm.server.models.params)
        begun = np.asarray(kept.rounds)[:, None] > 0
        return np.where(begun, flat(kept.model.params), flat(self.run.model(state)))


def alone(rounds, momentum=0.0):
    """Every client by itself from START on; its optimizer starts anew each round."""
    models = np.tile(START, (N, 1))
    for clients in rounds:
        for c in clients:
            models[c.id] = federated.local_sgd(models[c.id], c, CLASSES, RATE, momentum=momentum)
    return models


def test_the_script_brings_clients_back_and_leaves_one_out():
    times = np.bincount(SCRIPT.ids[SCRIPT.present], minlength=N)
    assert (times > 1).sum() >= 3
    assert not SCRIPT.present.all() and (SCRIPT.work[SCRIPT.present] < 1).any()


def test_fedamp(x64):
    """Clients below B do no step under `drop`: the others never hear of them."""
    local = LOCAL | {"last": "drop"}
    made = Made(fedamp(heavy, attention="distance", decay=DECAY, **local))
    rounds = rounds_of(made.run.data, rule=dataclasses.replace(RULE, last="drop"))
    assert any(not c.batches for clients in rounds for c in clients)
    setting = {"penalty": 0.4, "alpha": 2.0, "sigma": 6.0}
    # Weights of others that add up to more than 1; nobody near enough to matter.
    settings = (setting, setting | {"alpha": 30.0}, setting | {"sigma": 1e-6, "penalty": 0.0})
    for numbers in settings:
        state, records = made(**numbers)
        want = oracle.fedamp(START, rounds, CLASSES, RATE, N, momentum=DECAY, **numbers)
        np.testing.assert_allclose(made.own_models(state), want, **CLOSE)
    np.testing.assert_allclose(want, alone(rounds, DECAY), **CLOSE)
    np.testing.assert_allclose(flat(made.model_of(state, 3).params), want[3], **CLOSE)
    trained = {c.id for clients in rounds for c in clients if c.batches}
    assert set(np.flatnonzero(state.algorithm.server.known)) == trained
    np.testing.assert_array_equal(records["uplink_bytes_each"], 8 * START.size)
    np.testing.assert_array_equal(records["downlink_bytes_each"], 8 * START.size)
    # What a client that diverged reports is not kept, and no other client hears of it.
    lost, begin = max(trained), int(sum(SIZES[: max(trained)]))
    x = made.run.data.x.at[begin : begin + SIZES[lost]].set(jnp.nan)
    broken = dataclasses.replace(made.run.data, x=x)
    state, _ = made.step(KEY, made.run.start(KEY), ROUNDS, broken)
    others = [[c for c in clients if c.id != lost] for clients in rounds]
    setting = {n: float(made.hyper[n]) for n in setting}
    want = oracle.fedamp(START, others, CLASSES, RATE, N, momentum=DECAY, **setting)
    np.testing.assert_allclose(made.own_models(state), want, **CLOSE)
    assert not state.algorithm.server.known[lost]


def test_heurfedamp_attends_by_cosine(x64):
    models = np.random.default_rng(0).normal(size=(N, START.size))
    all_known = np.array([1, 0, 1, 1, 1, 0, 1], bool)

    @quick_jit
    def mixture(client, own_share, known):
        table = Table(Model(jax.vmap(unflat)(jnp.asarray(models))), known, ())
        ctx = Context(KEY, jnp.int32(0), Member(client, True, 0, 1.0))
        return by_cosine(own_share, 3.0)(ctx, table)

    nobody = np.zeros(N, bool)
    for client, own_share, known in (
        (2, 0.3, all_known), (1, 0.0, all_known), (3, 1.0, all_known), (3, 0.0, nobody)
    ):  # fmt: skip
        mixed, told = mixture(client, own_share, known)
        xi = oracle.by_cosine(models, known, client, own_share, 3.0)
        np.testing.assert_allclose(flat(mixed.params), xi @ models, **CLOSE)
        np.testing.assert_allclose(told["own_share"], xi[client], **CLOSE)


def held_sizes(share):
    return [min(max(math.ceil(n * share - 1e-6), 1), max(n - 1, 1)) for n in SIZES]


def test_fedfomo(x64):
    """The oracle is told which of the models a client asks for, all else is its own."""
    share, asked, epsilon = 0.3, 2, 0.4
    made = Made(fedfomo(sgd, models=asked, validation=share, epsilon=epsilon, **LOCAL))
    held = held_sizes(share)
    training = [n - v if n > v else n for n, v in zip(SIZES, held, strict=True)]
    windows = [window(made.run.data, i) for i in range(N)]
    validation = [(x[-v:], y[-v:]) for (x, y), v in zip(windows, held, strict=True)]

    def asks(r, i, affinity, known):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(KEY, r), i), 3)
        others = jnp.asarray(known & (np.arange(N) != i))
        chosen, valid = choose(key, jnp.asarray(affinity), others, asked, epsilon)
        return np.asarray(chosen)[np.asarray(valid)]

    rounds = rounds_of(made.run.data, training)
    models, affinity = oracle.fedfomo(START, rounds, validation, CLASSES, RATE, N, asks)
    state, records = made()
    np.testing.assert_allclose(made.own_models(state), models, **CLOSE)
    np.testing.assert_allclose(state.algorithm.server.affinity, affinity, **CLOSE)
    assert (affinity > 0).any() and (affinity < 0).any()
    np.testing.assert_array_equal(records["downlink_bytes_each"], asked * 8 * START.size)
    np.testing.assert_array_equal(records["uplink_bytes_each"], 8 * START.size)
    # In the first round there is nobody to ask: everyone trains alone.
    first, _ = made(1)
    np.testing.assert_allclose(made.own_models(first), alone(rounds[:1]), **CLOSE)


def test_whom_a_client_asks_for(x64):
    affinity = jnp.asarray([0.0, 3.0, -1.0, 2.0, 0.0, 5.0, 0.0, 1.0])
    others = jnp.asarray([0, 1, 1, 1, 1, 0, 1, 1], bool)
    pick = quick_jit(jax.vmap(lambda k, e, a: choose(k, a, others, 3, e), in_axes=(0, None, None)))
    seeds = jax.random.split(KEY, 400)
    chosen, valid = pick(seeds, 0.0, affinity)
    assert valid.all() and all(set(row) == {1, 3, 7} for row in np.asarray(chosen))
    chosen, valid = (np.asarray(v) for v in pick(seeds, 1.0, affinity))
    assert valid.all() and all(len(set(row)) == 3 for row in chosen)
    times = np.bincount(chosen.ravel(), minlength=8)
    assert times[0] == times[5] == 0
    assert (np.abs(times[[1, 2, 3, 4, 6, 7]] - 200) < 50).all()  # 5 standard deviations
    # Of equals any may be taken; where there are too few, what is left is not valid.
    times = np.bincount(np.asarray(pick(seeds, 0.0, jnp.zeros(8))[0]).ravel(), minlength=8)
    assert (np.abs(times[[1, 2, 3, 4, 6, 7]] - 200) < 50).all()
    few = jnp.zeros(8, bool).at[4].set(True)
    chosen, valid = choose(KEY, affinity, few, 3, 0.0)
    assert valid.tolist() == [True, False, False] and int(chosen[0]) == 4


def test_held_out_examples_are_the_last_and_never_all(x64):
    data = softmax_data(SIZES)
    training, validation = held_out(0.3)
    for i, n in enumerate(SIZES):
        mine = data.client(jnp.int32(i))
        a, b = training(mine), validation(mine)
        wanted = held_sizes(0.3)[i]
        assert int(b.size) == wanted and int(b.offset + b.size) == int(mine.offset) + n
        assert int(a.offset) == int(mine.offset) and int(a.size) == (n - wanted or n)
    nothing = dataclasses.replace(mine, size=jnp.int32(0))
    assert int(training(nothing).size) == int(validation(nothing).size) == 0


def test_fedala(x64):
    setting = {"share": 0.6, "weight_rate": 0.7}
    recipe = fedala(heavy, blended="re:^w$", weight_epochs=2, decay=DECAY, **setting, **LOCAL)
    made = Made(recipe)
    rounds = rounds_of(made.run.data)
    firsts = []
    for r, clients in enumerate(rounds):
        whole = [orders(RULE, KEY, r, c.id, len(c.y), made.run.data.longest, 1.0) for c in clients]
        firsts.append([b[: math.ceil(len(b) * 0.6 - 1e-6)] for b in whole])
    want = oracle.fedala(
        START, rounds, firsts, CLASSES, RATE, N, ~BIAS, weight_rate=0.7, momentum=DECAY
    )
    state, _ = made()
    np.testing.assert_allclose(flat(made.run.model(state)), want[0], **CLOSE)
    np.testing.assert_allclose(made.own_models(state, state.rows.kept), want[1], **CLOSE)
    (learned,) = state.rows.weights
    np.testing.assert_allclose(learned.reshape(N, -1), want[2][:, ~BIAS], **CLOSE)
    assert learned.min() < 0.9 and 0 < (np.asarray(learned) < 1).mean() < 1
    # Weights that stay 1 take all of the shared model.
    still, _ = made(weight_rate=0.0)
    plain = federated.fedavg(START, rounds, CLASSES, RATE, momentum=DECAY)
    np.testing.assert_allclose(flat(made.run.model(still)), plain[-1], **CLOSE)


def test_fedphp(x64):
    setting = {"strength": 0.4, "temperature": 2.0, "momentum": 0.8, "visits": 2.0}
    made = Made(fedphp(sgd, **setting, **LOCAL))
    rounds = rounds_of(made.run.data)
    theta, inherited = oracle.fedphp(START, rounds, CLASSES, RATE, N, **setting)
    state, _ = made()
    np.testing.assert_allclose(flat(made.run.model(state)), theta, **CLOSE)
    np.testing.assert_allclose(made.own_models(state, state.rows), inherited, **CLOSE)
    plain = federated.fedavg(START, rounds, CLASSES, RATE)[-1]
    assert np.abs(theta - plain).max() > 1e-3
    untaught, _ = made(strength=0.0, momentum=0.0)
    np.testing.assert_allclose(flat(made.run.model(untaught)), plain, **CLOSE)
    last = oracle.fedphp(
        START, rounds, CLASSES, RATE, N, **setting | {"strength": 0.0, "momentum": 0.0}
    )
    np.testing.assert_allclose(made.own_models(untaught, untaught.rows), last[1], **CLOSE)


def test_knn_per_trains_as_fedavg():
    """The program of a round is the same to the letter."""
    data, cohort = softmax_data(SIZES), cohort_of([3, 1, 4])

    def program(recipe):
        run = Run.of(recipe, softmax_task(START), data, SCRIPT.sampler(), Plan(2, 1))
        server = run.algorithm.init(KEY, run.task.init(KEY), N).server

        def step(server, lr):
            state = AlgorithmState(recipe.hyper | {"lr": lr}, server)
            return run.algorithm.step(KEY, state, (), cohort, data)[0].server

        return str(jax.make_jaxpr(step)(server, RATE))

    assert program(knn_per(sgd, **LOCAL)) == program(fedavg(sgd, **LOCAL))


def test_knn_per_looks_up_its_own_examples(x64):
    setting = {"neighbours": 3, "memory_share": 0.4, "width": 0.8}
    made = Made(knn_per(sgd, capacity=32, **setting, **LOCAL), Plan())
    state, predict = made.run.start(KEY), quick_jit(made.run.algorithm.predict)
    read = quick_jit(lambda client: made.model_of(state, client))
    x = np.random.default_rng(5).normal(size=(9, DIM))

    def represent(theta, x):
        return x @ theta[~BIAS].reshape(DIM, CLASSES)

    for client in (3, 5, 1):  # many examples, as many as neighbours, one
        model = read(client)
        want = oracle.knn_per(
            START, window(made.run.data, client), x, CLASSES,
            neighbours=3, share=0.4, width=0.8, represent=represent,
        )  # fmt: skip
        np.testing.assert_allclose(np.exp(predict(model, x)), want, **CLOSE)
    held, by_model = model.params, oracle.probabilities(START, x, CLASSES)
    empty = held._replace(labels=jnp.full_like(held.labels, -1))
    for params in (empty, held._replace(share=jnp.zeros(()))):
        alone = predict(model._replace(params=params), x)
        np.testing.assert_allclose(np.exp(alone), by_model, **CLOSE)


def test_a_small_memory_holds_distinct_examples_of_its_client(x64):
    made = Made(knn_per(sgd, capacity=6, features="outputs", **LOCAL), Plan())
    state = made.run.start(KEY)
    read, orders_seen = quick_jit(lambda client: made.model_of(state, client).params), []
    for client in (3, 6, 5):
        held = read(client)
        x, y = window(made.run.data, client)
        shown = x @ START[~BIAS].reshape(DIM, CLASSES) + START[BIAS]
        kept = np.asarray(held.features)[np.asarray(held.labels) >= 0]
        at = [int(np.argmin(np.abs(shown - z).sum(axis=1))) for z in kept]
        assert len(set(at)) == len(at) == min(6, SIZES[client])
        np.testing.assert_allclose(shown[at], kept, **CLOSE)
        np.testing.assert_array_equal(y[at], np.asarray(held.labels)[: len(at)])
        orders_seen.append(at)
    assert any(at != sorted(at) or max(at) >= 6 for at in orders_seen[:2])  # a random part


def test_more_models_than_fit_are_refused_with_the_figures(monkeypatch):
    monkeypatch.setattr(plans, "memory_bytes", lambda: 100 * START.size)
    for recipe in (fedamp(sgd, **LOCAL), fedfomo(sgd, **LOCAL)):
        server = recipe.build(**recipe.hyper).server
        model = softmax_task(START).init(KEY)
        with pytest.raises(InputError, match=r"clients = 1000 clients' models.*GB"):
            server.init(model, 1000)
        assert server.init(model, 20).known.shape == (20,)


def test_what_cannot_be_is_refused():
    bad = [
        (fedamp, {"attention": "dot"}, "attention"),
        (fedamp, {"own_share": 1.5}, "own_share"),
        (fedfomo, {"models": 0}, "models"),
        (fedfomo, {"validation": 1.0}, "validation"),
        (fedala, {"share": 0.0}, "share"),
        (fedala, {"weight_epochs": 0}, "weight_epochs"),
        (fedphp, {"strength": 1.1}, "strength"),
        (knn_per, {"neighbours": 0}, "neighbours"),
        (knn_per, {"width": 0.0}, "width"),
    ]
    for builder, setting, field in bad:
        with pytest.raises(InputError, match=f"algorithm.{field}"):
            builder(sgd, **setting, **LOCAL)
    task = softmax_task(START)._replace(features=None)
    with pytest.raises(InputError, match=r'algorithm.features.*"outputs"'):
        Run.of(knn_per(sgd, **LOCAL), task, softmax_data(SIZES), SCRIPT.sampler(), Plan())
