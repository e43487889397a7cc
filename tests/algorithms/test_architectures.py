"""FedMD, FedDF and FedProto against NumPy, and on networks of different architectures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    CLASSES,
    DIM,
    Run,
    Script,
    assert_trees_close,
    flat,
    orders,
    quadratic_task,
    quick_jit,
    script,
    shards,
    softmax_data,
    softmax_task,
    window,
)
from oracles import architectures as oracle
from oracles import federated

from fedjax_sim import tasks
from fedjax_sim.algorithms.feddf import feddf
from fedjax_sim.algorithms.fedmd import fedmd
from fedjax_sim.algorithms.fedproto import fedproto
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Batch, Context, Member, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.plan import Plan
from fedjax_sim.tasks import mixed, models

SIZES, ROUNDS, COHORT, RATE = [7, 1, 12, 20, 5, 3, 16], 4, 4, 0.3
KEY = jax.random.key(11)
START = np.random.default_rng(1).normal(size=DIM * CLASSES + CLASSES)
PUBLIC = np.random.default_rng(2).normal(size=(5, DIM))
RULE = Batches(epochs=2, size=4, shuffle=False)
ORDERED = {"lr": RATE, "epochs": 2, "batch_size": 4, "shuffle": False}
SCRIPT = script(ROUNDS, COHORT, len(SIZES), seed=3)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def sgd(lr):
    return optax.sgd(lr)


def rounds_of(data, rounds=ROUNDS):
    """Whoever is present in the script's rounds, with index lists."""
    out = []
    for r in range(rounds):
        out.append([])
        for i, here, work in zip(*(v[r] for v in SCRIPT), strict=True):
            x, y = window(data, i)
            rows = orders(RULE, KEY, r, int(i), len(y), data.longest, work)
            if here:
                out[-1].append(federated.Client(int(i), x, y, rows))
    return out


def public_batches(steps, size):
    """Full batches that run on through the public set in its order."""
    return [[(t * size + j) % len(PUBLIC) for j in range(size)] for t in range(steps)]


def bound(recipe, task=None, plan=Plan(2, 2)):  # noqa: B008 - frozen
    task = softmax_task(START) if task is None else task
    return Run.of(recipe, task, softmax_data(SIZES), SCRIPT.sampler(), plan)


def own_models(state, start=START):
    """`[N, P]`, those that never took part being the start."""
    found = flat(state.rows.model.params)
    return np.where(np.asarray(state.rows.rounds)[:, None] > 0, found, start)


@pytest.mark.parametrize("match", ["absolute", pytest.param("divergence", marks=pytest.mark.slow)])
def test_fedmd(x64, match):
    steps = {"digest_steps": 4, "digest_batch": 3, "match": match}
    run = bound(fedmd(sgd, public=PUBLIC, most_classes=6, **steps, **ORDERED), plan=Plan())
    simulate, start = run.compiled(ROUNDS), run.start(KEY)
    state, _ = simulate(KEY, start, ROUNDS)
    n, data = len(SIZES), rounds_of(run.data)
    digest = public_batches(4, 3)
    want, consensus = oracle.fedmd(START, n, data, CLASSES, RATE, PUBLIC, digest, match)
    np.testing.assert_allclose(own_models(state), want, **CLOSE)
    server = state.algorithm.server
    np.testing.assert_allclose(server.value[:, :CLASSES], consensus, **CLOSE)
    np.testing.assert_array_equal(server.value[:, CLASSES:], 0)
    # Before there is a consensus it is training alone.
    once, records = simulate(KEY, start, 1)
    alone, _ = oracle.fedmd(START, n, data[:1], CLASSES, RATE, PUBLIC, [], match)
    np.testing.assert_allclose(own_models(once), alone, **CLOSE)
    assert int(records["downlink_bytes_each"][0]) == PUBLIC.shape[0] * CLASSES * 8
    assert int(records["uplink_bytes_each"][0]) == PUBLIC.shape[0] * CLASSES * 8


@pytest.mark.slow
def test_fedmd_without_a_digest_is_training_alone(x64):
    run = bound(fedmd(sgd, public=PUBLIC, digest_steps=0, **ORDERED))
    state, _ = run.simulate(KEY, ROUNDS)
    want = alone_of(rounds_of(run.data))
    np.testing.assert_allclose(own_models(state), want, **CLOSE)


def alone_of(rounds):
    """Every client's own SGD over the rounds in which it was present, `[N, P]`."""
    mine = [[c for clients in rounds for c in clients if c.id == i] for i in range(len(SIZES))]
    return [federated.continued_sgd(START, m, CLASSES, RATE)[-1] if m else START for m in mine]


def test_feddf_and_without_distillation_fedavg(x64):
    settings = {"distill_rate": 0.05, "distill_steps": 4, "distill_batch": 3}
    run = bound(feddf(sgd, public=PUBLIC, **settings, **ORDERED), plan=Plan())
    simulate, data = run.compiled(ROUNDS), rounds_of(run.data)
    state, _ = simulate(KEY, run.start(KEY), ROUNDS)
    batches = public_batches(4, 3)
    want = oracle.feddf(START, data, CLASSES, RATE, PUBLIC, batches, 0.05)
    np.testing.assert_allclose(flat(run.model(state)), want, **CLOSE)
    state, _ = simulate(KEY, run.start(KEY, {"distill_rate": 0.0}), ROUNDS)
    want = federated.fedavg(START, data, CLASSES, RATE)[-1]
    np.testing.assert_allclose(flat(run.model(state)), want, **CLOSE)


@pytest.mark.parametrize("weighting", ["examples", pytest.param("uniform", marks=pytest.mark.slow)])
def test_fedproto_and_without_a_pull_training_alone(x64, weighting):
    recipe = fedproto(
        sgd, strength=2.0, most_classes=5, most_features=7, weighting=weighting, **ORDERED
    )
    run = bound(recipe)
    simulate, data = run.compiled(ROUNDS), rounds_of(run.data)
    state, records = simulate(KEY, run.start(KEY), ROUNDS)
    uniform = weighting == "uniform"
    want, shared, known = oracle.fedproto(
        START, len(SIZES), data, CLASSES, RATE, 2.0, uniform=uniform
    )
    np.testing.assert_allclose(own_models(state), want, **CLOSE)
    server = state.algorithm.server
    np.testing.assert_allclose(server.value[:CLASSES, :CLASSES], shared, **CLOSE)
    np.testing.assert_array_equal(server.known, [*known, False])
    assert int(records["downlink_bytes_each"][0]) == CLASSES * CLASSES * 8
    state, _ = simulate(KEY, run.start(KEY, {"strength": 0.0}), ROUNDS)
    np.testing.assert_allclose(own_models(state), alone_of(data), **CLOSE)


def test_a_class_that_nobody_has_keeps_its_prototype(x64):
    """Clients of the first round have classes 0 and 1, those of the second 1 and 2."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, DIM)), np.array([0, 1, 0, 1, 1, 2, 1, 2], np.int32)
    ids = np.array([[0, 1], [2, 3]])
    told = Script(ids, np.ones(ids.shape, bool), np.ones(ids.shape))
    recipe = fedproto(sgd, predict="prototypes", most_features=4, most_classes=4, **ORDERED)
    data = shards(x, y, [2, 2, 2, 2])
    run = Run.of(recipe, softmax_task(START), data, told.sampler(), Plan())
    simulate, start = run.compiled(2), run.start(KEY)
    first, _ = simulate(KEY, start, 1)
    second, _ = simulate(KEY, start, 2)
    before, after = (s.algorithm.server for s in (first, second))
    np.testing.assert_array_equal(before.known, [True, True, False, False])
    np.testing.assert_array_equal(after.known, [True, True, True, False])
    np.testing.assert_array_equal(before.value[0], after.value[0])
    assert not np.allclose(before.value[1], after.value[1])
    # Prediction by the nearest prototype, class 3 being unknown.
    member = Member(jnp.int32(3), jnp.array(True), jnp.int32(0), jnp.ones(()))
    row = jax.tree.map(lambda v: v[3], second.rows)
    model = run.algorithm.model_of(Context(KEY, jnp.int32(0), member), second.algorithm, row, None)
    outputs = np.asarray(quick_jit(run.algorithm.predict)(model, data.x))
    z = x @ np.asarray(row.model.params["w"])
    far = ((z[:, None] - np.asarray(after.value)[None, :3]) ** 2).sum(-1)
    np.testing.assert_allclose(outputs[:, :3], -far, **CLOSE)
    assert (outputs[:, 3] < outputs[:, :3].min(axis=1)).all()


@pytest.fixture(scope="module")
def several():
    """A task of two small networks in float64."""
    with jax.enable_x64(True):
        network = mixed.mixed(models.mlp(3), models.logistic(init="he"), width=2)
        task = tasks.classifier(network, CLASSES, x_shape=(DIM,), dtype=jnp.float64)
        yield task._replace(init=quick_jit(task.init))


@functools.cache
def compiled(task):
    """`(params, Model, Batch) -> gradient` and `(Model, x) -> (outputs, features)`."""
    grad = quick_jit(jax.grad(lambda p, m, b: task.loss(KEY, m._replace(params=p), b)[0]))
    return grad, quick_jit(lambda m, x: (task.predict(m, x), task.features(m, x)))


def test_a_client_has_one_network_of_a_mixed_model(x64, several):
    model, (gradient, show) = several.init(KEY), compiled(several)
    first, linear = (mixed.own(model, np.int32(i)) for i in range(2))
    sizes = [2, DIM * 2, CLASSES, 2 * CLASSES]
    b, w, head_b, head_w = np.split(np.asarray(linear.params), np.cumsum(sizes))[:4]
    z = PUBLIC @ w.reshape(DIM, 2) + b
    outputs, features = show(linear, PUBLIC)
    np.testing.assert_allclose(outputs, z @ head_w.reshape(2, CLASSES) + head_b, **CLOSE)
    np.testing.assert_allclose(features, z, **CLOSE)
    both = (outputs + show(first, PUBLIC)[0]) / 2
    np.testing.assert_allclose(show(model, PUBLIC)[0], both, **CLOSE)
    # What fills the shorter row up has no part in anything.
    batch = Batch(PUBLIC, np.arange(5, dtype=np.int32) % CLASSES, np.ones(5, bool))
    grad, used = np.asarray(gradient(linear.params, linear, batch)), sum(sizes)
    assert used < model.params.shape[1]
    assert np.all(grad[:used] != 0) and np.all(grad[used:] == 0)
    assert np.all(np.asarray(linear.params)[used:] == 0)
    assert int(linear.state.which) == 1 and mixed.n_architectures(model) == 2
    assert mixed.n_architectures(linear) == 1


def trained(task, model, client):
    """Params after the client's SGD steps."""
    gradient, p = compiled(task)[0], np.asarray(model.params)
    for rows in client.batches:
        full, mask = np.resize(rows, 5), np.arange(5) < len(rows)
        p = p - RATE * np.asarray(gradient(p, model, Batch(client.x[full], client.y[full], mask)))
    return p


def by_hand(task, table, rounds, distill):
    """FedDF on a mixed task, client by client and step by step."""
    model, opt, show = task.init(KEY), optax.adam(0.05), compiled(task)[1]
    now = [mixed.own(model, np.int32(a)) for a in range(2)]

    @quick_jit
    def one(model, state, rows, teacher):
        x, wanted = jnp.asarray(PUBLIC)[rows], teacher[rows]
        gap = lambda p: oracle_divergence(task.predict(model._replace(params=p), x), wanted)  # noqa: E731
        step, state = opt.update(jax.grad(gap)(model.params), state, model.params)
        return model._replace(params=model.params + step), state

    def taught(model, teacher):
        state = jax.tree.map(np.asarray, opt.init(model.params))
        for rows in distill:
            model, state = one(model, state, np.array(rows), teacher)
        return model

    for clients in rounds:
        ends = [(table[c.id], len(c.y), trained(task, now[table[c.id]], c)) for c in clients]
        said = [np.asarray(show(now[a]._replace(params=p), PUBLIC)[0]) for a, _, p in ends]
        for a in range(2):
            if mine := [(n, p) for b, n, p in ends if a == b]:
                mean = sum(n * p for n, p in mine) / sum(n for n, _ in mine)
                now[a] = now[a]._replace(params=mean)
        now = [taught(m, np.mean(said, axis=0)) for m in now]
    return np.stack([m.params for m in now])


def oracle_divergence(z, wanted):
    log_p, log_q = (jax.nn.log_softmax(v, axis=-1) for v in (wanted, z))
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


def test_feddf_averages_each_architecture_and_all_teach_all(x64, several):
    table = [0, 1, 1, 0, 0, 1, 0]
    settings = {"distill_rate": 0.05, "distill_steps": 2, "distill_batch": 3}
    recipe = feddf(sgd, public=PUBLIC, architectures=2, networks=table, **settings, **ORDERED)
    run = bound(recipe, several, Plan())
    state, _ = run.simulate(KEY, 2)
    data = rounds_of(run.data, 2)
    assert {table[c.id] for c in data[0]} == {0, 1}
    want = by_hand(several, table, data, public_batches(2, 3))
    got = run.algorithm.models(state.algorithm)
    np.testing.assert_allclose(got.params, want, rtol=1e-8, atol=1e-10)
    ctx = Context(KEY, jnp.int32(0), Member(jnp.int32(2), jnp.array(True), jnp.int32(0), 1.0))
    own = run.algorithm.model_of(ctx, state.algorithm, (), None)
    np.testing.assert_array_equal(own.params, got.params[1])
    assert int(own.state.which) == 1


@pytest.mark.parametrize("name", ["fedproto", pytest.param("fedmd", marks=pytest.mark.slow)])
def test_each_client_trains_its_own_architecture(x64, several, name):
    """Without a pull each row is SGD from the start of the client's network."""
    build = {
        "fedproto": lambda: fedproto(sgd, strength=0.0, **ORDERED),
        "fedmd": lambda: fedmd(sgd, public=PUBLIC, digest_steps=0, **ORDERED),
    }[name]
    run = bound(build(), several, Plan())
    state, _ = run.simulate(KEY, 1)
    model = several.init(KEY)
    for c in rounds_of(run.data, 1)[0]:
        assert int(state.rows.model.state.which[c.id]) == c.id % 2
        p = trained(several, mixed.own(model, np.int32(c.id % 2)), c)
        np.testing.assert_allclose(state.rows.model.params[c.id], p, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedproto", "fedmd", "feddf"])
def test_layouts_change_nothing_with_several_architectures(x64, several, name):
    """Also where lanes compute all branches."""
    build = {
        "fedproto": lambda: fedproto(sgd, strength=3.0, **ORDERED),
        "fedmd": lambda: fedmd(sgd, public=PUBLIC, digest_steps=2, digest_batch=3, **ORDERED),
        "feddf": lambda: feddf(
            sgd, public=PUBLIC, architectures=2, distill_steps=2, distill_batch=3, **ORDERED
        ),
    }[name]
    ends = []
    for plan in (Plan(1, 1), Plan(3, 1), Plan(2, 2)):
        state, _ = bound(build(), several, plan).simulate(KEY, ROUNDS)
        ends.append((state.algorithm.server, state.rows))
    for other in ends[1:]:
        assert_trees_close(other, ends[0], rtol=1e-9, atol=1e-12, note=name)


def refused(field, make):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.field == field


def test_what_cannot_be_is_refused(several):
    start = lambda recipe, task=None: bound(recipe, task).simulate(KEY, 1)  # noqa: E731
    plain = {"epochs": 1, "optimizer": optax.sgd(0.1)}
    refused("algorithm.public", lambda: start(fedmd(**plain)))
    refused("algorithm.public", lambda: start(feddf(public=np.full((2, DIM), np.nan), **plain)))
    refused("algorithm.match", lambda: fedmd(public=PUBLIC, match="l1", **plain))
    refused("algorithm.predict", lambda: fedproto(predict="nearest", **plain))
    refused("algorithm.distill_steps", lambda: feddf(public=PUBLIC, distill_steps=-1, **plain))
    refused("algorithm.most_classes", lambda: start(fedproto(most_classes=2, **plain)))
    refused("algorithm.most_features", lambda: start(fedproto(most_features=2, **plain)))
    narrow = fedmd(public=PUBLIC.astype(np.float32), most_classes=3, **plain)
    refused("algorithm.most_classes", lambda: start(narrow))
    refused("task.features", lambda: start(fedproto(**plain), quadratic_task()))
    refused("algorithm.architectures", lambda: start(feddf(public=PUBLIC, **plain), several))
    refused("algorithm.networks", lambda: start(fedproto(networks=[0, 1], **plain), several))
    refused("model.models", lambda: mixed.mixed())
    with_norm = mixed.mixed(models.mlp(4, norm="batch"))
    refused("model.models", lambda: tasks.classifier(with_norm, 3, x_shape=(2,)))
    odd = mixed.mixed((lambda key, x: jnp.zeros(()), lambda p, x: x), width=7)
    refused("model.models", lambda: tasks.classifier(odd, 3, x_shape=(2,)))
    assert isinstance(Model((), ()).state, tuple)
