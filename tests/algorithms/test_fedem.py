"""FedEM against its NumPy oracle, its predictions, and what it finds in planted mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    CLASSES,
    DIM,
    Run,
    assert_trees_close,
    flat,
    orders,
    quadratic_task,
    quick_jit,
    script,
    shards,
    softmax_data,
    softmax_task,
    unflat,
    window,
)
from oracles import fedem as oracle
from oracles.federated import Client

from fedjax_sim import tasks
from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.algorithms.fedem import fedem
from fedjax_sim.clients.mixture import Mixed, predict_mixture
from fedjax_sim.clients.responsibilities import responsibilities
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Batch, Context, Member, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.evaluate import evaluate_clients
from fedjax_sim.engine.mesh import make_mesh
from fedjax_sim.engine.plan import Plan
from fedjax_sim.sampling.uniform import uniform

SIZES, ROUNDS, RATE, M = [7, 1, 12, 20, 5, 3, 130], 3, 0.3, 3  # 130: two batches of the E pass
KEY = jax.random.key(2)
STARTS = np.random.default_rng(4).normal(size=(M, DIM * CLASSES + CLASSES))
RULE = Batches(epochs=2, size=4, shuffle=False)
LOCAL = {"epochs": 2, "batch_size": 4, "shuffle": False}
SCRIPT = script(ROUNDS, 4, len(SIZES), seed=3)


@pytest.fixture(scope="module")
def trained():
    """`(run, state)` after a few ragged rounds, from written-down components."""
    with jax.enable_x64(True):
        start = Model(jax.vmap(unflat)(jnp.asarray(STARTS)))
        recipe = fedem(optax.sgd(RATE), groups=M, start=start, **LOCAL)
        data = softmax_data(SIZES)
        run = Run.of(recipe, softmax_task(), data, SCRIPT.sampler(), Plan(2, 2))
        yield run, run.simulate(KEY, ROUNDS)[0]


@pytest.fixture(scope="module")
def wanted(trained):
    run, _ = trained
    rounds = []
    for r in range(ROUNDS):
        rounds.append([])
        for i, here, work in zip(*(v[r] for v in SCRIPT), strict=True):
            x, y = window(run.data, i)
            rows = orders(RULE, KEY, r, int(i), len(y), run.data.longest, work)
            if here:
                rounds[-1].append(Client(int(i), x, y, rows))
    seen = {c.id for clients in rounds for c in clients}
    assert 6 in seen and len(seen) < len(SIZES)  # two E batches; someone never took part
    return oracle.fedem(STARTS, rounds, CLASSES, RATE, len(SIZES)), seen


def test_components_and_shares_are_the_oracles(x64, trained, wanted):
    (_, state), ((thetas, pis), seen) = trained, wanted
    close = {"rtol": 1e-9, "atol": 1e-11}
    np.testing.assert_allclose(flat(state.algorithm.server.model.params), thetas, **close)
    np.testing.assert_allclose(state.rows.pi, pis, **close)
    assert set(np.flatnonzero(state.rows.rounds)) == seen
    assert np.abs(np.asarray(state.rows.pi) - 1 / M).max() > 0.1


def of_client(run, i):
    member = Member(jnp.int32(i), jnp.array(True), jnp.int32(0), jnp.ones(()))
    return Context(KEY, jnp.int32(0), member), run.data.client(jnp.int32(i))


def test_a_client_predicts_by_its_mixture_and_a_new_one_finds_its_shares(x64, trained, wanted):
    (run, state), ((thetas, pis), seen) = trained, wanted
    algorithm = run.algorithm

    def use(ctx, state, row, data, x):
        model = algorithm.model_of(ctx, state, row, data)
        return model.params.pi, algorithm.predict(model, x)

    use = quick_jit(use)
    for i in (6, min(set(range(len(SIZES))) - seen)):
        ctx, data = of_client(run, i)
        row = jax.tree.map(lambda v, i=i: v[i], state.rows)
        x, y = window(run.data, i)
        pi = pis[i] if i in seen else None
        if pi is None:
            pi = oracle.responsibilities(thetas, np.full(M, 1 / M), x, y, CLASSES).mean(axis=0)
            assert np.abs(pi - 1 / M).max() > 0.05
        shares, got = use(ctx, state.algorithm, row, data, run.data.x)
        np.testing.assert_allclose(shares, pi, rtol=1e-9)
        want = oracle.predict(thetas, pi, np.asarray(run.data.x), CLASSES)
        np.testing.assert_allclose(got, want, rtol=1e-9)
        blind = algorithm.model_of(ctx, state.algorithm, row, None)
        np.testing.assert_array_equal(blind.params.pi, row.pi)


def test_evaluation_is_of_the_mixtures(x64, trained, wanted):
    (run, state), ((thetas, pis), seen) = trained, wanted

    def evaluate(state):
        return evaluate_clients(
            run.algorithm, run.task, state.algorithm, state.rows, run.data, run.data,
            plan=Plan(1, 1), mesh=make_mesh(1), batch_size=64,
        )  # fmt: skip

    _, aux = quick_jit(evaluate)(state)
    for i in seen:
        x, y = window(run.data, i)
        log_p = oracle.predict(thetas, pis[i], x, CLASSES)
        np.testing.assert_allclose(aux["loss_sum"][i], -log_p[range(len(y)), y].sum(), rtol=1e-9)
        assert float(aux["accuracy_sum"][i]) == (log_p.argmax(axis=1) == y).sum()


def test_one_component_is_fedavg(x64):
    targets = np.random.default_rng(0).normal(size=(sum(SIZES), 2))
    data = shards(np.ones_like(targets), targets, SIZES)
    ends = []
    for recipe in (fedem(optax.sgd(RATE), groups=1, **LOCAL), fedavg(optax.sgd(RATE), **LOCAL)):
        run = Run.of(recipe, quadratic_task(2), data, SCRIPT.sampler(), Plan(2, 1))
        ends.append(run.simulate(KEY, ROUNDS))
    (ours, records), (theirs, theirs_records) = ends
    got = jax.tree.map(lambda v: v[0], ours.algorithm.server.model)
    assert_trees_close(got, theirs.algorithm.server.model, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(records["train_loss"], theirs_records["train_loss"], rtol=1e-12)
    np.testing.assert_array_equal(ours.rows.pi, 1.0)


@pytest.mark.slow
def test_planted_mixtures_are_found(x64):
    """Two ways to label; clients follow one, the other, or each in a known share."""
    rng, n, size = np.random.default_rng(0), 9, 120
    share = np.repeat([0.0, 1.0, 0.5], 3)
    x = rng.normal(size=(n * size, DIM))
    names = (x @ rng.normal(size=(DIM, CLASSES))).argmax(axis=1)
    other = rng.random(n * size) < np.repeat(share, size)
    y = np.where(other, (names + 1) % CLASSES, names).astype(np.int32)
    recipe = fedem(optax.sgd(1.0), groups=2, epochs=1, batch_size=40, shuffle=False)
    run = Run.of(recipe, softmax_task(), shards(x, y, [size] * n), uniform(n, n), Plan(1, 1))
    state, records = run.simulate(jax.random.key(0), 40)
    pi = np.asarray(state.rows.pi)
    swapped = pi[0, 1] > 0.5
    found = pi[:, 0] if swapped else pi[:, 1]
    np.testing.assert_allclose(found, share, atol=0.12)
    # One model for all cannot be right about both: at best ln 2 on the mixed clients.
    assert float(records["train_loss"][39]) < 0.5


@pytest.mark.parametrize("outputs", ["auto", "probabilities", "values"])
def test_predictions_are_mixed_as_the_task_is(x64, outputs):
    """By hand: 2 components with shares 0.2 and 0.8, of a classifier and of a regressor."""
    pi, x = np.array([0.2, 0.8]), np.array([[1.0, -2.0], [0.5, 3.0], [0.0, 1.0]])
    w = np.random.default_rng(0).normal(size=(2, 2, 3))
    z = np.einsum("bi,mij->mbj", x, w)
    p = np.exp(z) / np.exp(z).sum(axis=2, keepdims=True)
    logs = np.log(np.einsum("m,mbj->bj", pi, p))
    values = np.einsum("m,mbj->bj", pi, z)
    model = Model(Mixed(jnp.asarray(w), jnp.asarray(pi)))
    linear = lambda key, x: jnp.zeros((2, 3)), lambda params, x: x @ params
    shape = {"x_shape": (2,), "dtype": jnp.float64}
    kinds = {True: tasks.classifier(linear, 3, **shape), False: tasks.regressor(linear, 3, **shape)}
    for classes, task in kinds.items():
        got = predict_mixture(task, outputs)(model, jnp.asarray(x))
        probable = outputs == "probabilities" or (outputs == "auto" and classes)
        np.testing.assert_allclose(got, logs if probable else values, rtol=1e-12)


def test_without_a_metric_the_training_loss_is_what_explains(x64):
    """q is the softmax of log pi - |x - b|^2 / 2, example by example; padding is left out."""
    b = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]])
    components = np.array([[0.0, 0.5], [2.0, 1.0]])
    batch = Batch(jnp.ones((3, 2)), jnp.asarray(b), jnp.array([True, True, False]))
    models, pi = Model({"x": jnp.asarray(components)}), jnp.array([0.3, 0.7])
    q = responsibilities(quadratic_task(2), KEY, models, pi, batch)
    losses = 0.5 * ((components[None] - b[:2, None]) ** 2).sum(axis=2)
    joint = np.array([0.3, 0.7]) * np.exp(-losses)
    np.testing.assert_allclose(q[:2], joint / joint.sum(axis=1, keepdims=True), rtol=1e-12)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="groups"):
        fedem(optax.sgd(0.1), groups=0)
    with pytest.raises(InputError, match="outputs"):
        fedem(optax.sgd(0.1), outputs="odds").build().predict(softmax_task())
    client = fedem(optax.sgd(0.1)).build().client(softmax_task())
    with pytest.raises(InputError, match="group"):
        client.init(KEY, Model({"w": jnp.ones(2)}, {"mean": jnp.zeros(2)}))
