"""Normalisation layers against NumPy, and the marks by which a loss is frozen or measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from oracles import norms as oracle
from sparing import few

from fedjax_sim import tasks
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Batch, Model
from fedjax_sim.tasks import models, norms
from fedjax_sim.tasks.norms import Frozen, Measured
from fedjax_sim.tasks.registry import model_from

KEY = jax.random.key(3)
DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(7, 5)) * 2 + 1, DRAW.integers(0, 3, 7)
MASK = np.array([1, 1, 0, 1, 1, 0, 1], bool)
IMAGES = DRAW.normal(size=(6, 10, 10, 1))


def batch(x=X, mask=MASK):
    return Batch(jnp.asarray(x), jnp.asarray(Y[: len(x)]), jnp.asarray(mask))


def perturbed(model):
    """Scales, biases and statistics that are not 1 and 0."""
    leaves, structure = jax.tree.flatten(model)
    draw = np.random.default_rng(9)
    moved = [v + jnp.asarray(0.3 * np.abs(draw.normal(size=v.shape)), v.dtype) for v in leaves]
    return jax.tree.unflatten(structure, moved)


def numbers(tree):
    return jax.tree.map(lambda v: np.asarray(v, float), tree)


def close(got, want, rtol=1e-9):
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=rtol, atol=1e-11), got, want)


def mlp_task(norm="batch", **more):
    model = models.mlp(4, 6, norm=norm, **more)
    return tasks.classifier(model, 3, x_shape=(5,), dtype=jnp.float64)


def value_state_gradient(task, model, given):
    def loss(params):
        return task.loss(KEY, Model(params, model.state), given)

    (value, state), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(model.params)
    return value, state, grads


def test_loss_gradient_and_statistics_equal_numpy(x64):
    task = mlp_task(norm_momentum=0.7)
    model = perturbed(task.init(KEY))
    value, state, grads = value_state_gradient(task, model, batch())
    p, s = numbers(model.params), numbers(model.state)
    want, gradient, met = oracle.loss_and_grad(p, s, X[MASK], Y[MASK])
    assert float(value) == pytest.approx(want, rel=1e-10)
    close(grads, gradient)
    close(state, oracle.moved(s, met, 0.7))


def test_evaluation_uses_the_running_statistics(x64):
    task = mlp_task()
    model = perturbed(task.init(KEY))
    want = oracle.forward(numbers(model.params), numbers(model.state), X, train=False)[0]
    np.testing.assert_allclose(task.predict(model, jnp.asarray(X)), want, rtol=1e-9)


@pytest.mark.parametrize("norm", ["batch", "group", "layer"])
@pytest.mark.parametrize("filler", few([np.nan, np.inf, 1e30], np.nan))
def test_padding_rows_count_for_nothing(x64, norm, filler):
    task = mlp_task(norm, **({"norm_groups": 2} if norm == "group" else {}))
    model = perturbed(task.init(KEY))
    spoilt = np.where(MASK[:, None], X, filler)
    one = value_state_gradient(task, model, batch())
    other = value_state_gradient(task, model, batch(spoilt))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_an_empty_batch_changes_nothing(x64):
    task = mlp_task()
    model = perturbed(task.init(KEY))
    value, state, grads = value_state_gradient(task, model, batch(mask=np.zeros(7, bool)))
    assert float(value) == 0.0 and not any(np.any(g) for g in jax.tree.leaves(grads))
    jax.tree.map(np.testing.assert_array_equal, state, model.state)


def test_convolutions_are_normalised_by_channel_over_rows_and_positions(x64):
    x = DRAW.normal(size=(7, 3, 4, 2))
    mean, var = norms.moments(jnp.asarray(x), jnp.asarray(MASK))
    rows = x[MASK].reshape(-1, 2)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(var, rows.var(0), rtol=1e-12)
    layer = {"scale": np.array([2.0, 0.5]), "bias": np.array([1.0, -1.0])}
    want = layer["scale"] * (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) + layer["bias"]
    got = norms.batch_norm(jax.tree.map(jnp.asarray, layer), mean, var, jnp.asarray(x))
    np.testing.assert_allclose(got, want, rtol=1e-10)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm_equals_numpy(x64, groups):
    x = DRAW.normal(size=(4, 3, 2, 6)) * 3 + 1
    layer = {"scale": DRAW.normal(size=6), "bias": DRAW.normal(size=6)}
    want = np.empty_like(x)
    for row in range(4):
        for group in np.split(np.arange(6), groups):
            part = x[row][..., group]
            want[row][..., group] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    want = want * layer["scale"] + layer["bias"]
    got = norms.group_norm(jax.tree.map(jnp.asarray, layer), jnp.asarray(x), groups)
    np.testing.assert_allclose(got, want, rtol=1e-10)


@pytest.mark.parametrize("name", ["cnn_mcmahan", "cnn_w1"])
@pytest.mark.parametrize("norm", ["batch", "group", "layer"])
def test_convolutional_models_normalise_every_hidden_layer(name, norm):
    spec = model_from({"name": name, "norm": norm})
    network = spec.build(3)
    model = jax.jit(network.init)(KEY, IMAGES[:1].astype(np.float32))
    assert [model.params[f"norm_{i}"]["scale"].shape for i in range(2)] == [(32,), (64,)]
    assert len(norms.find(model).means) == (3 if norm == "batch" else 0)
    assert str(spec) == f"{name}(norm={norm})"
    scaled = jax.tree.map(lambda v: v, model)
    scaled.params["conv_0"] = jax.tree.map(lambda v: 10 * v, model.params["conv_0"])
    x = IMAGES.astype(np.float32)
    apply = jax.jit(lambda m: network.apply(m, x, train=True)[0])
    # What is normalised forgets the scale of the weights before it.
    np.testing.assert_allclose(apply(scaled), apply(model), rtol=2e-2, atol=2e-3)


class Linen(linen.Module):
    """A batch norm by its own name, one by a given one, and one inside another module."""

    @linen.compact
    def __call__(self, x, use_running_average, mask=None):
        mask = None if mask is None else mask[:, None]
        for name in (None, "calm"):
            norm = linen.BatchNorm(use_running_average, momentum=0.8, name=name)
            x = norm(linen.Dense(4)(x), mask=mask)
        return linen.Dense(3)(x)


class Nnx(nnx.Module):
    """A list of layers, so that paths hold numbers."""

    def __init__(self, *, rngs):
        self.dense = nnx.List([nnx.Linear(5, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)])
        self.calm = nnx.List([nnx.BatchNorm(4, momentum=0.8, rngs=rngs)])

    def __call__(self, x, mask=None):
        mask = None if mask is None else mask[:, None]
        return self.dense[1](self.calm[0](self.dense[0](x), mask=mask))


MODELS = {"built_in": models.mlp(4, 6, norm="batch"), "linen": Linen(), "nnx": Nnx}


def any_task(name):
    return tasks.classifier(MODELS[name], 3, x_shape=(5,), dtype=jnp.float64)


FOUND = [("built_in", 2, 10), ("linen", 2, 8), ("nnx", 1, 4)]


@pytest.mark.parametrize(("name", "layers", "channels"), FOUND)
def test_norm_leaves_are_found_in_any_model(x64, name, layers, channels):
    model = any_task(name).init(KEY)
    at = norms.find(model)
    assert (len(at.means), len(at.variances), len(at.affine)) == (layers, layers, 2 * layers)
    assert sum(v.size for v in norms.pick(model, at.affine)) == 2 * channels
    assert all(np.all(v == 0) for v in norms.pick(model, at.means))
    assert all(np.all(v == 1) for v in norms.pick(model, at.variances))
    # In linen scales and biases of 1 and 0 tell affine leaves from dense biases by name alone.
    values = sorted({float(v.ravel()[0]) for v in norms.pick(model, at.affine)})
    assert values == [0.0, 1.0]
    tripled = norms.put(model, at.all, tuple(3 * v for v in norms.pick(model, at.all)))
    changed = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (model, tripled)), strict=True)]
    assert {i for i, c in enumerate(changed) if c} <= set(at.all)


@pytest.mark.parametrize("model", [models.mlp(8, norm="group"), models.mlp(8), models.logistic()])
def test_models_without_statistics_have_no_norm_leaves(model):
    task = tasks.classifier(model, 3, x_shape=(5,))
    assert norms.find(task.init(KEY)) == norms.NormLeaves((), (), ())


@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_state_trains_what_evaluation_computes(x64, name):
    task = any_task(name)
    model = perturbed(task.init(KEY))
    value, state, grads = value_state_gradient(
        task, Model(model.params, Frozen(model.state)), batch()
    )

    def evaluated(params):
        logits = task.predict(Model(params, model.state), jnp.asarray(X[MASK]))
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(5), Y[MASK]])

    want, gradient = jax.value_and_grad(evaluated)(model.params)
    assert float(value) == pytest.approx(float(want), rel=1e-10)
    close(grads, gradient)
    jax.tree.map(np.testing.assert_array_equal, state, Frozen(model.state))


def test_a_measured_state_comes_back_as_what_each_layer_met(x64):
    task = any_task("built_in")
    model = perturbed(task.init(KEY))
    value, state = jax.jit(task.loss)(KEY, Model(model.params, Measured(model.state)), batch())
    p, s = numbers(model.params), numbers(model.state)
    want, _, met = oracle.loss_and_grad(p, s, X[MASK], Y[MASK], train=False)
    assert float(value) == pytest.approx(want, rel=1e-10)
    close(state.state, met)


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_flax_batch_norms_are_measured_in_training_mode(x64, name):
    task = any_task(name)
    model = perturbed(task.init(KEY))
    _, state = jax.jit(task.loss)(KEY, Model(model.params, Measured(model.state)), batch())
    _, after = task.loss(KEY, model, batch())
    at = norms.find(model)
    statistics = at.means + at.variances
    met, old, new = (
        norms.pick(Model(model.params, s), statistics) for s in (state.state, model.state, after)
    )
    close(new, tuple(0.8 * a + 0.2 * b for a, b in zip(old, met, strict=True)), rtol=1e-6)
    first = np.asarray(jax.tree.leaves(met[0]))
    dense = model.params["Dense_0"] if name == "linen" else model.params["dense"][0]
    hidden = X[MASK] @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    np.testing.assert_allclose(first[0], hidden.mean(0), rtol=1e-6)


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"name": "mlp", "norm": "batsh"}, "model.norm"),
        ({"name": "mlp", "norm": "group", "widths": [12]}, "model.norm_groups"),
        ({"name": "mlp", "norm": "group", "norm_groups": 0}, "model.norm_groups"),
        ({"name": "mlp", "norm": "batch", "norm_groups": 4}, "model.norm_groups"),
        ({"name": "mlp", "norm_momentum": 0.5}, "model.norm_momentum"),
        ({"name": "cnn_w1", "norm": "batch", "norm_momentum": 1.0}, "model.norm_momentum"),
        ({"name": "cnn_mcmahan", "norm": "group", "norm_groups": 64}, "model.norm_groups"),
    ],
)
def test_bad_norms_name_the_field(table, field):
    with pytest.raises(InputError) as caught:
        model_from(table)
    assert caught.value.field == field


def test_models_without_norm_are_as_they_were():
    """Same keys, same parameters, same outputs, no state."""
    network = models.mlp(4, norm="none").build(3)
    model = network.init(KEY, jnp.zeros((1, 5)))
    assert model.state == () and sorted(model.params) == ["dense_0", "head"]
    with_norm = models.mlp(4, norm="batch").build(3).init(KEY, jnp.zeros((1, 5)))
    np.testing.assert_array_equal(with_norm.params["dense_0"]["w"], model.params["dense_0"]["w"])
