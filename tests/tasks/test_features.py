"""What models show as their representation: `Task.features` and `Task.forward`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_sim import tasks
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Batch, Model
from fedjax_sim.tasks import models
from fedjax_sim.tasks.norms import Frozen

KEY = jax.random.key(3)
X = jnp.linspace(-1, 2, 24).reshape(6, 4)
BATCH = Batch(X, jnp.array([0, 1, 2, 0, 1, 2]), jnp.ones(6, bool))


class Linen(nn.Module):
    """Shows what its head is given."""

    @nn.compact
    def __call__(self, x, train=False):
        z = nn.BatchNorm(use_running_average=not train)(nn.Dense(5)(x))
        self.sow("intermediates", "features", z)
        return nn.Dense(3, name="head")(z)


class Nnx(nnx.Module):
    """Likewise."""

    def __init__(self, *, rngs):
        self.first = nnx.Linear(4, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        z = self.norm(self.first(x))
        self.sow(nnx.Intermediate, "features", z)
        return self.head(z)


MODELS = {
    "mlp": models.mlp(7, 5),
    "batch norm": models.mlp(5, norm="batch"),
    "linen": Linen(),
    "nnx": Nnx,
}


def head_of(params):
    head = params["head"]
    w, b = (head[n] for n in (("w", "b") if "w" in head else ("kernel", "bias")))
    return w, b[None, :]


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_the_head_on_the_features(name):
    """In both modes; the pass scores as the loss, and frozen statistics are evaluation's."""
    task = tasks.classifier(MODELS[name], 3, x_shape=(4,))
    model = task.init(KEY)
    w, b = head_of(model.params)
    features = task.features(model, X)
    assert features.shape == (6, 5)
    np.testing.assert_allclose(features @ w + b, task.predict(model, X), rtol=1e-5, atol=1e-6)
    found = task.forward(KEY, model, BATCH)
    np.testing.assert_allclose(found.features @ w + b, found.outputs, rtol=1e-5, atol=1e-6)
    value, state = task.loss(KEY, model, BATCH)
    np.testing.assert_allclose(task.score(found.outputs, BATCH), value, rtol=1e-6)
    jax.tree.map(lambda a, c: np.testing.assert_allclose(a, c, rtol=1e-6), found.state, state)
    if jax.tree.leaves(model.state):
        assert np.abs(np.asarray(found.features - features)).max() > 0.1
        still = task.forward(KEY, Model(model.params, Frozen(model.state)), BATCH)
        np.testing.assert_allclose(still.features, features, rtol=1e-5, atol=1e-6)
        assert isinstance(still.state, Frozen)


def test_a_model_that_shows_nothing_has_no_features():
    task = tasks.classifier(nn.Dense(3), 3, x_shape=(4,))
    assert task.features is None
    assert task.forward(KEY, task.init(KEY), BATCH).features is None
    assert tasks.from_loss(lambda key: jnp.zeros(2), lambda w, x, y: x @ w - y).features is None


def test_plain_functions_may_show_one():
    linear = tasks.from_functions(
        lambda key, x: jnp.ones((4, 3)), lambda w, x: x @ w, lambda w, x: x[:, :2]
    )
    task = tasks.classifier(linear, 3, x_shape=(4,))
    np.testing.assert_array_equal(task.features(task.init(KEY), X), X[:, :2])
    flat = tasks.from_functions(
        lambda key, x: jnp.ones((4, 3)), lambda w, x: x @ w, lambda w, x: x[:, 0]
    )
    with pytest.raises(InputError, match=r"\[B, F\]"):
        tasks.classifier(flat, 3, x_shape=(4,))


def test_sizes_of_the_built_in_models():
    lstm = tasks.next_char(models.lstm_chars(9, hidden=6, layers=1), 9, x_shape=(5,))
    cnn = tasks.classifier(models.cnn_mcmahan(), 10, x_shape=(28, 28, 1))
    line = tasks.classifier(models.logistic(), 10, x_shape=(3, 2))
    inputs = (((4, 5), jnp.int32), ((4, 28, 28, 1), float), ((4, 3, 2), float))
    for task, size, (shape, kind) in zip((lstm, cnn, line), (6, 512, 6), inputs, strict=True):
        model = jax.eval_shape(task.init, KEY)
        assert jax.eval_shape(task.features, model, jnp.zeros(shape, kind)).shape == (4, size)
