"""Losses and metrics against NumPy float64 written by hand, masks, dtypes, messages."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from fedjax_sim import tasks
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Batch, Model
from fedjax_sim.tasks import models

KEY = jax.random.key(3)


def _cross_entropy(z, y, smoothing=0.0):
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    target = (1 - smoothing) * np.eye(z.shape[-1])[y] + smoothing / z.shape[-1]
    return -(target * log_p).sum(-1)


def _batch(rng, shape, y, mask):
    return Batch(jnp.asarray(rng.normal(size=(len(y), *shape))), jnp.asarray(y), jnp.asarray(mask))


def _value_and_grad(task, model, batch, key=KEY):
    def loss(params):
        return task.loss(key, Model(params, model.state), batch)[0]

    return jax.jit(jax.value_and_grad(loss))(model.params)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classifier_equals_numpy(smoothing, x64):
    task = tasks.classifier(
        models.mlp(4), 3, x_shape=(5,), label_smoothing=smoothing, dtype=jnp.float64
    )
    model = task.init(KEY)
    mask = np.array([1, 1, 0, 1, 0, 1], bool)
    batch = _batch(np.random.default_rng(0), (5,), np.array([0, 2, 1, 1, 2, 0]), mask)
    z = np.asarray(task.predict(model, batch.x))
    value, state = task.loss(KEY, model, batch)
    expected = _cross_entropy(z, np.asarray(batch.y), smoothing)[mask].mean()
    assert value.dtype == jnp.float64 and state == ()
    assert float(value) == pytest.approx(expected, rel=1e-12)
    got = {name: tuple(map(float, pair)) for name, pair in task.metrics(z, batch).items()}
    right = (z.argmax(-1) == np.asarray(batch.y))[mask].sum()
    plain = _cross_entropy(z, np.asarray(batch.y))[mask].sum()
    assert got["accuracy"] == (right, 4) and got["loss"] == pytest.approx((plain, 4), rel=1e-12)


def test_softmax_gradient_equals_numpy(x64):
    task = tasks.classifier(models.logistic(init="he"), 3, x_shape=(5,), dtype=jnp.float64)
    model = task.init(KEY)
    y, mask = np.array([0, 2, 1, 1]), np.array([1, 0, 1, 1], bool)
    batch = _batch(np.random.default_rng(1), (5,), y, mask)
    z = np.asarray(task.predict(model, batch.x))
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    residual = (p - np.eye(3)[y]) * mask[:, None] / mask.sum()
    gradient = _value_and_grad(task, model, batch)[1]["head"]
    np.testing.assert_allclose(gradient["w"], np.asarray(batch.x).T @ residual, rtol=1e-12)
    np.testing.assert_allclose(gradient["b"], residual.sum(0), rtol=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
def test_regressor_equals_numpy(outputs, x64):
    task = tasks.regressor(models.logistic(init="he"), outputs, x_shape=(2,), dtype=jnp.float64)
    model, rng = task.init(KEY), np.random.default_rng(2)
    y = rng.normal(size=(4,) if outputs == 1 else (4, outputs))
    mask = np.array([1, 1, 0, 1], bool)
    batch = _batch(rng, (2,), y, mask)
    out = np.asarray(task.predict(model, batch.x))
    error = (out - y.reshape(4, outputs))[mask]
    assert float(task.loss(KEY, model, batch)[0]) == pytest.approx((error**2).mean(), rel=1e-12)
    metrics = task.metrics(jnp.asarray(out), batch)
    assert float(metrics["mse"][0]) == pytest.approx((error**2).mean(-1).sum(), rel=1e-12)
    assert float(metrics["mae"][0]) == pytest.approx(np.abs(error).mean(-1).sum(), rel=1e-12)
    assert {float(count) for _, count in metrics.values()} == {3.0}


@pytest.mark.parametrize("pad", [None, 0])
def test_next_char_equals_numpy(pad, x64):
    spec = models.lstm_chars(6, embed=2, hidden=3)
    task = tasks.next_char(spec, 6, x_shape=(4,), pad=pad, dtype=jnp.float64)
    model, rng = task.init(KEY), np.random.default_rng(3)
    x, y = rng.integers(0, 6, (2, 3, 4))
    mask = np.array([1, 0, 1], bool)
    z = np.asarray(task.predict(model, jnp.asarray(x)))
    batch = Batch(jnp.asarray(x), jnp.asarray(y), jnp.asarray(mask))
    counted = mask[:, None] & ((y != pad) if pad is not None else np.ones_like(y, bool))
    ce = _cross_entropy(z, y)
    assert float(task.loss(KEY, model, batch)[0]) == pytest.approx(ce[counted].mean(), rel=1e-12)
    metrics = task.metrics(jnp.asarray(z), batch)
    assert float(metrics["accuracy"][0]) == (z.argmax(-1) == y)[counted].sum()
    assert float(metrics["accuracy"][1]) == counted.sum()


TASKS = {
    "classifier": (lambda: tasks.classifier(models.mlp(4), 3, x_shape=(5,)), np.int32, ()),
    "regressor": (lambda: tasks.regressor(models.mlp(4), 3, x_shape=(5,)), np.float32, (3,)),
    "quadratic": (lambda: tasks.quadratic(5, np.ones(5)), np.float32, (5,)),
    "from_loss": (
        lambda: tasks.from_loss(
            lambda key: jnp.ones(5), lambda w, x, y: jnp.log1p((x @ w - y) ** 2)
        ),
        np.float32,
        (),
    ),
}


@functools.cache
def _made(name):
    return TASKS[name][0]()


@functools.cache
def _start(name):
    return jax.jit(_made(name).init)(KEY)


@functools.cache
def _compiled(name):
    return jax.jit(
        jax.value_and_grad(lambda params, batch: _made(name).loss(KEY, Model(params), batch)[0])
    )


@pytest.mark.parametrize("name", TASKS)
@hypothesis.given(mask=st.lists(st.booleans(), min_size=4, max_size=4), seed=st.integers(0, 99))
def test_padding_is_inert(name, mask, seed):
    """Poison in padding rows changes no bit of loss, gradient or metrics; no rows give 0."""
    _, dtype, shape = TASKS[name]
    task, rng, mask = _made(name), np.random.default_rng(seed), np.array(mask)
    model = _start(name)
    x = rng.normal(size=(4, 5)).astype(np.float32)
    y = rng.integers(0, 3, (4, *shape)).astype(dtype)
    poison = rng.choice(np.array([np.inf, -np.inf, np.nan], np.float32), x.shape)
    bad_x = np.where(mask[:, None], x, poison)
    bad_y = y if dtype == np.int32 else np.where(mask.reshape(4, *[1] * len(shape)), y, np.nan)
    clean, dirty = (Batch(*map(jnp.asarray, (a, b, mask))) for a, b in [(x, y), (bad_x, bad_y)])
    value, gradient = _compiled(name)(model.params, clean)
    bad_value, bad_gradient = _compiled(name)(model.params, dirty)
    np.testing.assert_array_equal(value, bad_value)
    jax.tree.map(np.testing.assert_array_equal, gradient, bad_gradient)
    if not mask.any():
        assert float(value) == 0.0
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    outputs = np.array(task.predict(model, clean.x))
    good = task.metrics(jnp.asarray(outputs), clean)
    outputs[~mask] = np.nan
    jax.tree.map(np.testing.assert_array_equal, good, task.metrics(jnp.asarray(outputs), dirty))


def test_gradient_of_a_padding_row_is_zero():
    task = tasks.classifier(models.mlp(4), 3, x_shape=(5,))
    model, mask = task.init(KEY), jnp.array([True, False])

    def loss(x):
        return task.loss(KEY, model, Batch(x, jnp.array([1, 2]), mask))[0]

    gradient = jax.grad(loss)(jnp.array([[1.0] * 5, [jnp.inf] * 5]))
    assert np.any(gradient[0]) and not np.any(gradient[1])


def test_labels_out_of_range_give_nan():
    task = tasks.classifier(models.mlp(4), 3, x_shape=(5,))
    for label in (-1, 3):
        batch = Batch(jnp.ones((1, 5)), jnp.array([label]), jnp.array([True]))
        assert np.isnan(task.loss(KEY, task.init(KEY), batch)[0])


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int16, jnp.uint32])
def test_integer_inputs_and_labels(dtype):
    task = tasks.classifier(models.mlp(4), 3, x_shape=(5,), x_dtype=jnp.uint8)
    x = jnp.arange(10).reshape(2, 5)
    batch = Batch(x.astype(jnp.uint8), jnp.array([0, 2], dtype), jnp.ones(2, bool))
    same = Batch(x.astype(jnp.float32), jnp.array([0, 2]), batch.mask)
    model = task.init(KEY)
    assert float(task.loss(KEY, model, batch)[0]) == float(task.loss(KEY, model, same)[0])


def test_float64_everywhere(x64):
    """No float32 inside: loss, gradients and new state of a float64 task are float64."""
    for spec, shape in [(models.mlp(3), (4,)), (models.cnn_w1(), (6, 6, 1))]:
        task = tasks.classifier(spec, 3, x_shape=shape, dtype=jnp.float64)
        batch = Batch(jnp.ones((2, *shape)), jnp.array([0, 1]), jnp.ones(2, bool))
        run = lambda model, task=task, batch=batch: jax.value_and_grad(  # noqa: E731
            lambda m: task.loss(KEY, m, batch)[0]
        )(model)
        text = str(jax.make_jaxpr(run)(task.init(KEY)))
        assert "f64" in text and "f32" not in text


def test_float32_stays_under_x64(x64):
    task = tasks.classifier(models.mlp(3), 3, x_shape=(4,))
    batch = Batch(jnp.ones((2, 4)), jnp.array([0, 1]), jnp.ones(2, bool))
    value, gradient = _value_and_grad(task, task.init(KEY), batch)
    assert {leaf.dtype for leaf in jax.tree.leaves((value, gradient))} == {jnp.dtype("float32")}


def test_init_is_strongly_typed():
    for make, _, _ in TASKS.values():
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(make().init(KEY).params))


def test_spec_binds_later():
    spec = tasks.classifier(models.mlp(4), 3)
    assert isinstance(spec, tasks.TaskSpec)
    bound = spec.bind((5,)).init(KEY)
    direct = tasks.classifier(models.mlp(4), 3, example=np.zeros(5, np.float32)).init(KEY)
    jax.tree.map(np.testing.assert_array_equal, bound, direct)


def test_from_loss_full_form_keeps_state():
    def loss(key, model, batch):
        return jnp.sum(model.params * jax.random.normal(key)), model.state + 1

    task = tasks.from_loss(
        lambda key: Model(jnp.ones(2), jnp.zeros(())),
        loss,
        predict=lambda model, x: x * model.state,
        metrics=lambda outputs, batch: {"sum": (jnp.sum(outputs), jnp.sum(batch.mask))},
        form="full",
    )
    batch = Batch(jnp.ones((3, 1)), jnp.ones(3), jnp.ones(3, bool))
    model = task.init(KEY)
    value, state = task.loss(KEY, model, batch)
    assert float(value) == pytest.approx(2 * float(jax.random.normal(KEY)))
    assert float(state) == 1.0
    outputs = task.predict(Model(model.params, state), batch.x)
    assert float(task.metrics(outputs, batch)["sum"][0]) == 3.0


def test_from_loss_without_predict_measures_nothing():
    task = tasks.from_loss(lambda key: jnp.ones(2), lambda w, x, y: x @ w)
    outputs = task.predict(task.init(KEY), jnp.ones((3, 2)))
    assert outputs.shape == (3, 0) and task.metrics(outputs, None) == {}


@pytest.mark.parametrize(
    ("make", "field", "words"),
    [
        (lambda: tasks.classifier(models.mlp(3), 1), "classes", "at least 2"),
        (lambda: tasks.classifier("mlp", 3), "model", "must be a built-in model"),
        (lambda: tasks.classifier(models.mlp, 3), "model", "must be a built-in model"),
        (lambda: tasks.classifier(models.mlp(3), 3, label_smoothing=1), "label_smoothing", "less"),
        (lambda: tasks.classifier(models.mlp(3), 3, dtype=jnp.int32), "dtype", "floating"),
        (lambda: tasks.next_char(models.mlp(3), 5, x_shape=(4,)), "model", "[B, T, 5]"),
        (lambda: tasks.regressor(models.mlp(3), 0), "outputs", "at least 1"),
        (
            lambda: tasks.classifier((lambda k, x: 0.0, lambda p, x: x), 3, x_shape=(4,)),
            "model",
            "gives outputs [1, 4], must give logits [B, 3]",
        ),
        (
            lambda: tasks.classifier((lambda k, x: jnp.ones(2), jnp.dot), 3, x_shape=(4,)),
            "model",
            "fails on inputs of shape (4,)",
        ),
        (lambda: tasks.from_loss(None, None, form="rows"), "form", "examples, full"),
        (lambda: tasks.quadratic(3, np.ones(2)), "start", "(3,)"),
    ],
)
def test_bad_input_has_a_message(make, field, words):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.field == field and words in str(caught.value)


def test_float64_without_x64_is_refused():
    spec = tasks.classifier(models.mlp(3), 3, dtype=np.float64)
    with pytest.raises(InputError, match="jax_enable_x64"):
        spec.bind((4,))


def test_wrong_targets_are_refused():
    task = tasks.classifier(models.mlp(3), 3, x_shape=(4,))
    for y in (jnp.ones(2), jnp.ones((2, 1), jnp.int32)):
        with pytest.raises(InputError, match="integers of shape"):
            task.loss(KEY, task.init(KEY), Batch(jnp.ones((2, 4)), y, jnp.ones(2, bool)))
