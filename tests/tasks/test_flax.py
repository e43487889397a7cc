"""Flax linen and nnx modules: modes, batch statistics, dropout, random streams."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from fedjax_sim import tasks
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Batch, Model
from fedjax_sim.tasks.networks import from_linen, from_nnx

KEY, OTHER = jax.random.key(0), jax.random.key(1)
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32) * 2 + 1
Y = np.array([0, 1, 2, 0, 1, 2])


def _batch(mask=(1,) * 6):
    return Batch(jnp.asarray(X), jnp.asarray(Y), jnp.array(mask, bool))


class LinenTrain(linen.Module):
    """Normalise, drop out, read out; the mode comes as `train`."""

    rate: float = 0.0

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = linen.Dropout(self.rate, deterministic=not train)(x)
        return linen.Dense(3)(x)


class LinenFlags(linen.Module):
    """The same by the other two names, with a masked batch norm."""

    rate: float = 0.0

    @linen.compact
    def __call__(self, x, *, deterministic, use_running_average, mask=None):
        mask = None if mask is None else mask[:, None]
        norm = linen.BatchNorm(use_running_average=use_running_average, momentum=0.9)
        x = linen.Dropout(self.rate, deterministic=deterministic)(norm(x, mask=mask))
        return linen.Dense(3)(x)


class Nnx(nnx.Module):
    """The same; the mode comes by `train()` and `eval()`."""

    def __init__(self, rate=0.0, *, rngs):
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(self.norm(x)))


class NnxMasked(Nnx):
    """The same with a masked batch norm."""

    def __call__(self, x, mask=None):
        mask = None if mask is None else mask[:, None]
        return self.head(self.drop(self.norm(x, mask=mask)))


class NnxDeep(nnx.Module):
    """Thirteen layers in a list, whose names sort differently as numbers and as text."""

    def __init__(self, *, rngs):
        self.parts = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(12)])
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        for part in self.parts:
            x = x + part(x)
        return self.head(x)


def nnx_of(cls, rate):
    """A factory of `cls` with this dropout rate."""
    return lambda rngs: cls(rate, rngs=rngs)


BUILD = {
    "linen_train": LinenTrain,
    "linen_flags": LinenFlags,
    "nnx": lambda rate=0.0: nnx_of(Nnx, rate),
    "nnx_masked": lambda rate=0.0: nnx_of(NnxMasked, rate),
}
MASKED = ("linen_flags", "nnx_masked")


def _task(name, rate=0.0):
    return tasks.classifier(BUILD[name](rate), 3, x_shape=(4,))


def _statistics(state):
    leaves = {jax.tree_util.keystr(p)[-7:]: v for p, v in jax.tree.leaves_with_path(state)}
    return next(v for k, v in leaves.items() if "mean" in k), next(
        v for k, v in leaves.items() if "var" in k
    )


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("mask", [(1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 0, 0)])
def test_batch_statistics_equal_the_formula(name, mask):
    task = _task(name)
    model = jax.jit(task.init)(KEY)
    _, state = jax.jit(task.loss)(KEY, model, _batch(mask))
    seen = X[np.array(mask, bool)] if name in MASKED else X
    mean, var = _statistics(state)
    seen = seen.astype(np.float64)
    np.testing.assert_allclose(mean, 0.1 * seen.mean(0), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(var, 0.9 + 0.1 * seen.var(0), rtol=2e-5)


@pytest.mark.parametrize("name", BUILD)
def test_training_uses_the_batch_and_evaluation_the_running_statistics(name):
    task = _task(name)
    model = jax.jit(task.init)(KEY)
    value, state = jax.jit(task.loss)(KEY, model, _batch())
    mean, var = (np.asarray(v, np.float64) for v in _statistics(state))
    kernel = next(v for v in jax.tree.leaves(model.params) if v.shape == (4, 3))
    expected = (X - mean) / np.sqrt(var + 1e-5) @ np.asarray(kernel)
    outputs = task.predict(Model(model.params, state), jnp.asarray(X))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    z = (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-5) @ np.asarray(kernel)
    ce = np.log(np.exp(z).sum(-1)) - z[np.arange(6), Y]
    assert float(value) == pytest.approx(ce.mean(), rel=1e-4)


@pytest.mark.parametrize("name", BUILD)
def test_dropout_is_driven_by_the_key(name):
    task = _task(name, 0.5)
    model = jax.jit(task.init)(KEY)
    loss = jax.jit(lambda key: task.loss(key, model, _batch())[0])
    assert float(loss(KEY)) == float(loss(KEY)) != float(loss(OTHER))
    legacy = jax.random.PRNGKey(5)
    assert float(loss(legacy)) == float(loss(legacy))
    # Neither parameters nor state hold a random stream, and evaluation draws nothing.
    kinds = {leaf.dtype for leaf in jax.tree.leaves(model)}
    assert kinds == {jnp.dtype("float32")}
    calm = _task(name, 0.0)
    np.testing.assert_array_equal(task.predict(model, X), calm.predict(model, X))


@pytest.mark.parametrize("name", BUILD)
def test_an_empty_batch_changes_nothing(name):
    task = _task(name, 0.5)
    model = jax.jit(task.init)(KEY)

    def loss(params):
        return task.loss(KEY, Model(params, model.state), _batch((0,) * 6))

    (value, state), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(model.params)
    assert float(value) == 0.0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    jax.tree.map(np.testing.assert_array_equal, state, model.state)


@pytest.mark.parametrize("name", BUILD)
def test_stacked_models_equal_a_loop(name):
    task = _task(name, 0.5)
    keys = jax.random.split(KEY, 3)
    models = jax.jit(jax.vmap(task.init))(keys)
    step = jax.jit(jax.value_and_grad(lambda model, key: task.loss(key, model, _batch())[0]))
    together = jax.jit(jax.vmap(step))(models, keys)
    for i in range(3):
        alone = step(jax.tree.map(lambda a, i=i: a[i], models), keys[i])
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=2e-6),
            together,
            alone,
        )


@pytest.mark.parametrize("name", BUILD)
def test_float64(name, x64):
    task = tasks.classifier(BUILD[name](0.5), 3, x_shape=(4,), dtype=jnp.float64)
    model = jax.jit(task.init)(KEY)
    value, state = jax.jit(task.loss)(KEY, model, _batch())
    assert {leaf.dtype for leaf in jax.tree.leaves((model, value, state))} == {jnp.dtype("float64")}


def test_nnx_equals_the_module_itself():
    module = NnxDeep(rngs=nnx.Rngs(3))
    network = from_nnx(module)
    model = network.init(KEY, X[:1])
    np.testing.assert_allclose(network.apply(model, X)[0], module(X), rtol=1e-6)
    assert model.state == () and isinstance(model.params, dict)


@pytest.mark.parametrize("cls", [LinenTrain(), Nnx, nnx_of(Nnx, 0.0)])
def test_another_key_starts_elsewhere(cls):
    task = tasks.classifier(cls, 3, x_shape=(4,))
    first, again, other = (task.init(k) for k in (KEY, KEY, OTHER))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    kernels = [next(v for v in jax.tree.leaves(m.params) if v.ndim == 2) for m in (first, other)]
    assert not np.any(kernels[0] == kernels[1])


def test_sown_values_are_dropped():
    class Sow(linen.Module):
        @linen.compact
        def __call__(self, x):
            self.sow("intermediates", "x", x)
            return linen.Dense(3)(x)

    class SowNnx(nnx.Module):
        def __init__(self, rngs):
            self.head = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            self.seen = nnx.Intermediate(x)
            return self.head(x)

    for model in (Sow(), SowNnx):
        task = tasks.classifier(model, 3, x_shape=(4,))
        start = task.init(KEY)
        assert start.state == () and task.loss(KEY, start, _batch())[1] == ()


def test_training_without_a_key_is_refused():
    network = from_nnx(nnx_of(Nnx, 0.5))
    with pytest.raises(InputError, match="random streams"):
        network.apply(network.init(KEY, X[:1]), X, train=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tasks.classifier(LinenTrain, 3), "give an instance, LinenTrain(...)"),
        (lambda: tasks.classifier(lambda rngs: 3, 3), "must make a flax nnx module"),
        (lambda: tasks.classifier(nnx_of(Nnx, 0.0), 5, x_shape=(4,)), "logits [B, 5]"),
        (lambda: tasks.classifier(nnx_of(Nnx, 0.0), 3, x_shape=(7,)), "inputs of shape (7,)"),
    ],
)
def test_bad_modules_have_a_message(make, words):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.field == "model" and words in str(caught.value)


def test_linen_and_functions_agree():
    dense = linen.Dense(3)
    model = from_linen(dense).init(KEY, X[:1])
    by_hand = tasks.from_functions(lambda k, x: {}, lambda p, x: x @ p["kernel"] + p["bias"][None])
    np.testing.assert_array_equal(from_linen(dense).apply(model, X)[0], by_hand.apply(model, X)[0])


def test_flax_and_the_backend_stay_out_until_asked_for():
    code = (
        "import sys; from jax._src import xla_bridge as b; from fedjax_sim import tasks;"
        "tasks.classifier(tasks.models.mlp(3), 2, x_shape=(4,));"
        "assert 'flax' not in sys.modules and not b.backends_are_initialized();"
        "from flax import nnx;"
        "tasks.classifier(lambda rngs: nnx.Linear(4, 2, rngs=rngs), 2, x_shape=(4,));"
        "assert not b.backends_are_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
