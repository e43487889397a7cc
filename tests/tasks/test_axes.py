"""Widths read off a model's program: what may be cut gives the function of the masked model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sparing import few

from fedjax_sim.clients import parts
from fedjax_sim.core.types import Model
from fedjax_sim.tasks import build, models
from fedjax_sim.tasks.axes import layout
from fedjax_sim.tasks.cnn_heterofl import cnn_heterofl


def read(model, x_shape, classes=10):
    task = build.classifier(model, classes, x_shape=x_shape)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return task, shapes, layout(task.predict, shapes, x_shape, jnp.float32)


SIZES = {
    "mlp": (models.mlp(20, 30), (4,), (20, 30)),
    "as wide as inputs and outputs": (models.mlp(10, 10), (10,), (10, 10)),
    "batch norm": (models.mlp(20, norm="batch"), (4,), (20,)),
    "flattened channels": (models.cnn_mcmahan(), (28, 28), (32, 64, 512)),
    "mean over positions": (cnn_heterofl(), (28, 28), (64, 128, 256, 512)),
    "no hidden units": (models.logistic(), (4,), ()),
    # Layer and group norm mix channels, the recurrent cell is a loop: nothing is cut.
    "layer norm": (models.mlp(16, norm="layer"), (4,), ()),
    "group norm": (models.mlp(16, norm="group"), (4,), ()),
}


@pytest.mark.parametrize("name", SIZES)
def test_widths(name):
    model, x_shape, sizes = SIZES[name]
    assert read(model, x_shape)[2].sizes == sizes


def test_flax_residual_blocks_have_one_width():
    import flax.linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.gelu(nn.Dense(16)(x))
            return nn.Dense(10)(nn.tanh(x + nn.Dense(16)(nn.tanh(nn.Dense(6)(x)))))

    assert sorted(read(Block(), (5,))[2].sizes) == [6, 16]


def test_an_unknown_operation_is_no_width():
    """A sort mixes units; what meets no such thing stays a width."""

    def predict(model, x):
        hidden = jnp.sort(x @ model.params["a"], axis=1)
        return jax.nn.relu(hidden @ model.params["b"]) @ model.params["c"]

    shapes = {"a": (4, 7), "b": (7, 6), "c": (6, 3)}
    model = Model({n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()})
    assert layout(predict, model, (4,), jnp.float32).sizes == (6,)


def test_products_of_two_activations_are_no_width():
    """Masked units may be f(0) there, and would count."""

    def predict(model, x):
        left, right = jnp.exp(x @ model.params["a"]), jnp.exp(x @ model.params["b"])
        return left @ right.T

    model = Model({n: jax.ShapeDtypeStruct((4, 5), jnp.float32) for n in "ab"})
    assert layout(predict, model, (4,), jnp.float32).sizes == ()


@pytest.mark.parametrize("first", few([0, 3], 3))
@pytest.mark.parametrize(
    ("model", "x_shape"),
    [
        pytest.param(cnn_heterofl(4, 6), (6, 6), marks=pytest.mark.slow),
        (models.mlp(5, 8, norm="batch"), (4,)),
        ("flattened", (4, 4)),
    ],
)
def test_a_cut_model_is_the_masked_one(model, x_shape, first):
    """Outputs and gradients; `put_back` undoes `cut`. Sigmoids: a unit without weights is 1/2."""
    if model == "flattened":

        def init(key, x):
            one, two = jax.random.split(key)
            return {
                "conv": jax.random.normal(one, (3, 3, 1, 5)),
                "head": jax.random.normal(two, (4 * 4 * 5, 10)),
            }

        def apply(params, x):
            x = jax.lax.conv_general_dilated(
                x[..., None],
                params["conv"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return jax.nn.sigmoid(x).reshape(x.shape[0], -1) @ params["head"]

        model = (init, apply)
    task, _, of = read(model, x_shape)
    whole = task.init(jax.random.key(1))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, *x_shape)), jnp.float32)
    counts = parts.kept(of, 0.4)
    holds = parts.held(of, jnp.asarray(counts), first)
    part, mask = parts.cut(of, whole, counts, first), parts.masked(whole, holds)

    def total(model):
        return jnp.sum(task.predict(model, x) ** 2)

    small, small_slope = jax.value_and_grad(total)(part)
    large, slope = jax.value_and_grad(total)(mask)
    np.testing.assert_allclose(small, large, rtol=1e-5)
    back = parts.put_back(of, small_slope, counts, first)
    wanted = parts.masked(slope, holds)
    for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    whole_again = parts.put_back(of, part, counts, first)
    for got, want in zip(jax.tree.leaves(whole_again), jax.tree.leaves(mask), strict=True):
        np.testing.assert_array_equal(got, want)
    share = sum(v.size for v in jax.tree.leaves(part)) / sum(v.size for v in jax.tree.leaves(whole))
    np.testing.assert_allclose(parts.share(holds, whole), share, rtol=1e-6)
