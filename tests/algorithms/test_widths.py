"""Clients that train a part of the model: against their oracles, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import CLASSES, DIM, Run, assert_trees_close, orders, script, softmax_data, window
from oracles import widths as oracle
from oracles.federated import Client

from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.algorithms.fedrolex import fedrolex
from fedjax_sim.algorithms.fjord import fjord
from fedjax_sim.algorithms.heterofl import heterofl
from fedjax_sim.algorithms.lora import lora
from fedjax_sim.clients import parts
from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.lane_shapes import program_flops
from fedjax_sim.engine.plan import Plan
from fedjax_sim.tasks import build, models
from fedjax_sim.tasks.axes import layout
from fedjax_sim.tasks.cnn_heterofl import cnn_heterofl

SIZES = [7, 1, 12, 20, 5, 3, 16]
ROUNDS, COHORT, HIDDEN, RATE = 4, 4, 7, 0.3
KEY = jax.random.key(11)
RULE = Batches(epochs=2, size=4, shuffle=False)
ORDERED = {"lr": RATE, "epochs": 2, "batch_size": 4, "shuffle": False}
SCRIPT = script(ROUNDS, COHORT, len(SIZES), seed=3)
RATIOS = (1.0, 0.5, 0.2)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def sgd(lr):
    return optax.sgd(lr)


def two_layers():
    return build.classifier(models.mlp(HIDDEN), CLASSES, x_shape=(DIM,), dtype=jnp.float64)


def trained(recipe, plan=Plan()):  # noqa: B008 - frozen
    run = Run.of(recipe, two_layers(), softmax_data(SIZES), SCRIPT.sampler(), plan)
    start = run.start(KEY)
    state, records = run.compiled(ROUNDS)(KEY, start, ROUNDS)
    return run, start, state, records


def as_dict(params):
    """The oracle's names."""
    first, head = params["dense_0"], params["head"]
    named = {"w0": first["w"], "b0": first["b"], "w1": head["w"], "b1": head["b"]}
    return {n: np.asarray(v) for n, v in named.items()}


def rounds_of(data):
    """The oracle's view of the script: whoever is present, with its index lists."""
    made = []
    for t in range(ROUNDS):
        clients = []
        for i, here, share in zip(*(v[t] for v in SCRIPT), strict=True):
            x, y = window(data, i)
            if here:
                rows = orders(RULE, KEY, t, int(i), len(y), data.longest, share)
                clients.append(Client(int(i), x, y, rows))
        made.append(clients)
    return made


def hold(run, start, state, want):
    got = as_dict(run.model(state))
    begin = as_dict(run.model(start))
    assert np.abs(got["w0"] - begin["w0"]).max() > 1e-2
    assert_trees_close(got, want(begin, rounds_of(run.data)), **CLOSE)


@pytest.mark.parametrize(("form", "lanes"), [("sliced", 1), ("masked", 2)])
def test_heterofl(x64, form, lanes):
    """Both forms are the paper's; clients lack labels, and client 1 has one example."""
    recipe = heterofl(sgd, ratios=RATIOS, form=form, **ORDERED)
    run, start, state, records = trained(recipe, Plan(lanes, 1))

    def want(model, rounds):
        return oracle.covered(model, rounds, RATIOS, RATE, own_labels=True, uniform=True)

    hold(run, start, state, want)
    assert (np.asarray(records["coverage"]) < 1).any()


def test_fedrolex_rolls(x64):
    """Sliced on two lanes: with more than one lane all sizes of parts are computed."""
    recipe = fedrolex(sgd, ratios=RATIOS[1:], **ORDERED)
    run, start, state, _ = trained(recipe, Plan(2, 1))

    def want(model, rounds):
        return oracle.covered(model, rounds, RATIOS[1:], RATE, rolling=True)

    hold(run, start, state, want)


@pytest.mark.parametrize(("form", "distill"), [("sliced", "on"), ("masked", "off")])
def test_fjord(x64, form, distill):
    recipe = fjord(sgd, ratios=RATIOS, form=form, distill=distill, **ORDERED)
    run, start, state, _ = trained(recipe)

    def drawn(t, client, step):
        key = KEY
        for data in (t, client, 2, step, len(RATIOS)):  # 2: the purpose of losses
            key = jax.random.fold_in(key, data)
        return int(jax.random.randint(key, (), client % len(RATIOS), len(RATIOS), jnp.int32))

    def want(model, rounds):
        return oracle.ordered(model, rounds, RATIOS, RATE, drawn, distill=distill == "on")

    hold(run, start, state, want)


def test_lora_trains_low_rank_factors_alone(x64):
    run, start, state, records = trained(lora(sgd, rank=2, alpha=3.0, **ORDERED), Plan(2, 1))
    found = start.algorithm.server.server.model.params
    pairs = {
        n: (np.asarray(f.a), np.asarray(f.b))
        for n, f in zip(("w0", "w1"), found[1::2], strict=True)
    }
    assert not pairs["w0"][1].any() and pairs["w0"][0].any()
    hold(run, start, state, lambda m, rounds: oracle.low_rank(m, pairs, rounds, RATE, 3.0))
    factors = 2 * (DIM + HIDDEN) + 2 * (HIDDEN + CLASSES)
    assert int(records["uplink_bytes_each"][0]) == 8 * factors
    got, begin = as_dict(run.model(state)), as_dict(run.model(start))
    np.testing.assert_array_equal(got["b0"], begin["b0"])
    assert np.linalg.matrix_rank(got["w1"] - begin["w1"], tol=1e-9) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heterofl", "fedrolex", "fjord"])
def test_one_level_is_fedavg(x64, name):
    recipes = {
        "heterofl": heterofl(sgd, tiers=1, labels="all", weighting="examples", **ORDERED),
        "fedrolex": fedrolex(sgd, tiers=1, **ORDERED),
        "fjord": fjord(sgd, tiers=1, **ORDERED),
    }
    models = [run.model(state) for run, _, state, _ in map(trained, (recipes[name], AVERAGE))]
    assert_trees_close(*models, rtol=1e-12, atol=1e-14)


AVERAGE = fedavg(sgd, **ORDERED)


@pytest.mark.slow
@pytest.mark.parametrize("builder", [heterofl, fedrolex, fjord])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_both_forms_are_equal_on_any_lanes(x64, builder, norm):
    """With momentum, shuffles, batch norm, five levels; and levels drawn anew each round."""
    task = build.classifier(
        models.mlp(12, 9, norm=norm), CLASSES, x_shape=(DIM,), dtype=jnp.float64
    )
    heavy = optax.sgd(RATE, momentum=0.5)
    more = {"assign": "dynamic", "scaler": "on"} if builder is heterofl and norm == "batch" else {}
    found = []
    for form, lanes in (("masked", 1), ("sliced", 1), ("sliced", 3)):
        recipe = builder(heavy, form=form, epochs=2, batch_size=4, **more)
        run = Run.of(recipe, task, softmax_data(SIZES), SCRIPT.sampler(), Plan(lanes, 1))
        state, _ = run.simulate(KEY, ROUNDS)
        found.append(run.algorithm.global_model(state.algorithm))
    assert_trees_close(found[1], found[0], rtol=1e-9, atol=1e-11)
    assert_trees_close(found[2], found[0], rtol=1e-9, atol=1e-11)


PUBLISHED = {1: (1556.9, 80.5), 1 / 16: (6.6, 0.40)}


def test_parameters_and_operations_of_the_papers_levels():
    """Diao et al. 2021, the CNN for MNIST: thousands of parameters, millions of operations."""
    task = build.classifier(cnn_heterofl(), 10, x_shape=(28, 28))
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    of = layout(task.predict, shapes, (28, 28), jnp.float32)
    found = {}
    for ratio in (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16):
        counts = parts.kept(of, ratio)
        part = jax.eval_shape(lambda m, counts=counts: parts.cut(of, m, counts), shapes)
        x = jax.ShapeDtypeStruct((1, 28, 28), jnp.float32)
        spent = program_flops(jax.make_jaxpr(task.predict)(part, x).jaxpr)
        found[ratio] = tree.n_entries(part.params) / 1e3, spent / 1e6
    assert [n for n, _ in found.values()] == [1556.874, 391.37, 98.922, 25.274, 6.594]
    for ratio, (entries, operations) in PUBLISHED.items():
        assert round(found[ratio][0], 1) == entries
        assert found[ratio][1] == pytest.approx(operations, abs=0.1 if ratio == 1 else 0.005)


def test_the_scaler_in_front_of_a_batch_norm_changes_nothing_but_epsilon(x64):
    """And without a batch norm it multiplies what hidden layers make, kernel and bias, by 1 / r."""
    from fedjax_sim.clients.width import _scaled

    x = np.random.default_rng(0).normal(size=(8, DIM))
    for norm, scaled in (("batch", 1.0), ("none", 4.0)):
        net = models.mlp(HIDDEN, norm=norm).build(CLASSES)
        model = net.init(jax.random.key(0), jnp.asarray(x))
        of = layout(lambda m, x, net=net: net.apply(m, x)[0], model, (DIM,), jnp.float64)
        plain = net.apply(model, jnp.asarray(x), train=True)[0]
        more = net.apply(_scaled(of, model, 0.25), jnp.asarray(x), train=True)[0]
        np.testing.assert_allclose(more, scaled * plain, rtol=1e-3 if norm == "batch" else 1e-12)


BAD = {
    "ratios": lambda: heterofl(sgd, lr=0.1, ratios=(0.5, 1.0)),
    "tiers": lambda: heterofl(sgd, lr=0.1, tiers=0),
    "assign": lambda: heterofl(sgd, lr=0.1, assign="sometimes"),
    "form": lambda: fedrolex(sgd, lr=0.1, form="whole"),
    "distill": lambda: fjord(sgd, lr=0.1, distill="yes"),
    "rank": lambda: lora(sgd, lr=0.1, rank=0),
}


@pytest.mark.parametrize("field", BAD)
def test_bad_arguments_are_named(field):
    with pytest.raises(InputError, match=field):
        BAD[field]()


def test_what_a_model_cannot_do_is_said(x64):
    """Regression has no labels; a model of fixed sizes takes no small arrays."""
    from fedjax_sim.clients.tiers import tiers_of
    from fedjax_sim.clients.width import labels_present

    data = softmax_data(SIZES).client(jnp.int32(3))
    target = data.__class__(data.x, data.x[:, 0], data.offset, data.size, data.longest)
    with pytest.raises(InputError, match='labels="all"'):
        labels_present(target, CLASSES)
    np.testing.assert_array_equal(
        labels_present(data, CLASSES), np.isin(range(CLASSES), window(softmax_data(SIZES), 3)[1])
    )

    def stiff(model, x):
        return jax.nn.relu(x @ model.params["a"].reshape(DIM, 6)) @ model.params["b"]

    task = two_layers()._replace(predict=stiff)
    model = Model({"a": jnp.ones((DIM, 6)), "b": jnp.ones((6, CLASSES))})
    of = layout(stiff, model, (DIM,), jnp.float64)
    with pytest.raises(InputError, match="masked"):
        tiers_of(task, of, (1.0, 0.5), model, data)
