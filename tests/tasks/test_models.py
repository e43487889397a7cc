"""Built-in models: sizes, pooling, initialisers, and the LSTM against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fedjax_sim import tasks
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Batch
from fedjax_sim.tasks import layers, models
from fedjax_sim.tasks.lstm import lstm_layer

KEY = jax.random.key(7)


def _count(task):
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(task.init, KEY)))


@pytest.mark.parametrize(
    ("spec", "shape", "expected"),
    [
        (models.logistic(), (60,), 610),
        (models.mlp(200, 200), (28, 28, 1), 199_210),
        (models.cnn_mcmahan(), (28, 28, 1), 1_663_370),
        (models.cnn_mcmahan(), (28, 28), 1_663_370),
        (models.cnn_w1(), (32, 32, 3), 1_626_442),
    ],
)
def test_parameter_counts(spec, shape, expected):
    assert _count(tasks.classifier(spec, 10, x_shape=shape)) == expected


def test_lstm_parameter_count():
    # 90 x 8, then 4 x 256 x (8 + 256 + 1), 4 x 256 x (256 + 256 + 1), 257 x 90.
    assert _count(tasks.next_char(models.lstm_chars(90), 90, x_shape=(5,))) == 820_522


def test_max_pool_equals_reduce_window():
    x = jax.random.normal(KEY, (3, 6, 8, 5))
    cotangent = jax.random.normal(jax.random.key(1), (3, 3, 4, 5))

    def stock(x):
        size = (1, 2, 2, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, size, size, "VALID")

    ours, back = jax.vjp(layers.max_pool_2x2, x)
    theirs, stock_back = jax.vjp(stock, x)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(back(cotangent)[0], stock_back(cotangent)[0])


def test_max_pool_leaves_an_odd_edge_out():
    x = jax.random.normal(KEY, (2, 5, 7, 3))
    np.testing.assert_array_equal(layers.max_pool_2x2(x), layers.max_pool_2x2(x[:, :4, :6]))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_conv_equals_numpy(padding, x64):
    x, w = (np.random.default_rng(0).normal(size=s) for s in [(2, 6, 5, 3), (3, 3, 3, 4)])
    b = np.arange(4.0)
    pad = 1 if padding == "SAME" else 0
    framed = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(framed, (3, 3), axis=(1, 2))
    expected = np.einsum("bijcuv,uvco->bijo", windows, w) + b
    ours = layers.conv({"w": jnp.asarray(w), "b": jnp.asarray(b)}, jnp.asarray(x), padding)
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("init", "std"),
    [
        ("he", (2 / 300) ** 0.5),
        ("lecun", (1 / 300) ** 0.5),
        ("glorot", (2 / 500) ** 0.5),
        ("torch", (1 / 900) ** 0.5),
    ],
)
def test_initialisers(init, std):
    layer = layers.affine(KEY, (300, 200), init, jnp.float32)
    assert np.std(layer["w"]) == pytest.approx(std, rel=0.02)  # 60,000 draws: 0.3 % a sigma
    if init == "torch":
        bound = 300**-0.5
        for leaf in layer.values():
            assert 0.97 * bound < np.abs(leaf).max() <= bound
    else:
        np.testing.assert_array_equal(layer["b"], np.zeros(200))


def test_logistic_starts_at_zero():
    model = tasks.classifier(models.logistic(), 3, x_shape=(4,)).init(KEY)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(model))


def test_mlp_equals_numpy(x64):
    task = tasks.classifier(models.mlp(7, 5), 3, x_shape=(2, 2), dtype=jnp.float64)
    model = task.init(KEY)
    x = np.random.default_rng(1).normal(size=(6, 2, 2))
    hidden = x.reshape(6, 4)
    for name in ("dense_0", "dense_1"):
        layer = model.params[name]
        hidden = np.maximum(hidden @ np.asarray(layer["w"]) + np.asarray(layer["b"]), 0)
    head = model.params["head"]
    expected = hidden @ np.asarray(head["w"]) + np.asarray(head["b"])
    np.testing.assert_allclose(task.predict(model, jnp.asarray(x)), expected, rtol=1e-12)


def _numpy_lstm(layer, x):
    w, u, b = (np.asarray(layer[n]) for n in "wub")
    n, hidden = len(x), len(u)
    h, c = np.zeros((n, hidden)), np.zeros((n, hidden))
    states = []
    for t in range(x.shape[1]):
        z = x[:, t] @ w + h @ u + b
        i, f, g, o = (z[:, k * hidden : (k + 1) * hidden] for k in range(4))
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        states.append(h)
    return np.stack(states, axis=1)


def test_lstm_equals_numpy(x64):
    spec = models.lstm_chars(11, embed=3, hidden=4)
    task = tasks.next_char(spec, 6, x_shape=(5,), dtype=jnp.float64)
    params = task.init(KEY).params
    x = np.random.default_rng(2).integers(0, 11, (3, 5))
    states = np.asarray(params["embed"])[x]
    one = lstm_layer(params["lstm_0"], jnp.asarray(states[:, :1]))
    np.testing.assert_allclose(one, _numpy_lstm(params["lstm_0"], states[:, :1]), rtol=1e-12)
    for name in ("lstm_0", "lstm_1"):
        states = _numpy_lstm(params[name], states)
    expected = states @ np.asarray(params["head"]["w"]) + np.asarray(params["head"]["b"])
    outputs = task.predict(task.init(KEY), jnp.asarray(x))
    np.testing.assert_allclose(outputs, expected, rtol=1e-11)
    last = models.lstm_chars(11, embed=3, hidden=4, output="last").build(6)
    only = last.apply(task.init(KEY), jnp.asarray(x))[0]
    np.testing.assert_allclose(only, outputs[:, -1], rtol=1e-12)


def test_lstm_forget_gate_starts_open():
    params = tasks.next_char(models.lstm_chars(5, hidden=3), 5, x_shape=(2,)).init(KEY).params
    np.testing.assert_array_equal(params["lstm_1"]["b"], np.repeat([0, 1, 0], [3, 3, 6]))


@pytest.mark.parametrize(
    ("spec", "shape"),
    [(models.logistic(init="he"), (6,)), (models.mlp(5), (6,)), (models.cnn_w1(), (6, 6))],
)
def test_stacked_params_equal_a_loop(spec, shape):
    """`jit(vmap(grad))` over models with a leading axis gives what one model at a time gives."""
    task = tasks.classifier(spec, 3, x_shape=shape)
    keys = jax.random.split(KEY, 3)
    x = jax.random.normal(KEY, (3, 4, *shape))
    batch = Batch(x, jnp.arange(12).reshape(3, 4) % 3, jnp.arange(12).reshape(3, 4) != 5)
    gradient = jax.jit(jax.grad(lambda model, key, batch: task.loss(key, model, batch)[0]))
    stacked = jax.jit(jax.vmap(task.init))(keys)
    together = jax.jit(jax.vmap(gradient))(stacked, keys, batch)
    for i in range(3):
        model, one = (jax.tree.map(lambda a, i=i: a[i], t) for t in (stacked, batch))
        alone = gradient(model, keys[i], one)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-5, atol=2e-6),
            together,
            alone,
        )


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: models.mlp(0), "widths"),
        (lambda: models.mlp(2.5), "widths"),
        (lambda: models.mlp(3, init="best"), "init"),
        (lambda: models.lstm_chars(0), "vocab"),
        (lambda: models.lstm_chars(5, output="some"), "output"),
        (lambda: models.lstm_chars(5, init="zeros"), "init"),
        (lambda: tasks.classifier(models.cnn_w1(), 10, x_shape=(784,)), "x_shape"),
        (lambda: tasks.classifier(models.cnn_w1(), 10, x_shape=(5, 5, 1)), "x_shape"),
        (lambda: tasks.classifier(models.lstm_chars(5), 5, x_shape=(9,)), "x"),
    ],
)
def test_bad_input_names_the_field(make, field):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.field == field
