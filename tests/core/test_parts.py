"""Rules select the leaves that they say, of built-in and flax models; cutting loses nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from helpers import assert_trees_equal

from fedjax_sim.core import parts
from fedjax_sim.core.checks import InputError
from fedjax_sim.tasks import models
from fedjax_sim.tasks.networks import as_network

LAYER = {"w": np.ones((2, 3)), "b": np.ones(3)}


def shapes(model, outputs, x):
    return jax.eval_shape(as_network(model, outputs).init, jax.random.key(0), x).params


def chosen(params, rule):
    flags = jax.tree.leaves(parts.mask(params, rule))
    return {name for name, here in zip(parts.names(params), flags, strict=True) if here}


IMAGE, ROW = jnp.zeros((1, 12, 12, 1)), jnp.zeros((1, 4))
BUILT_IN = {
    "mlp": (models.mlp(5, 6), ROW),
    "cnn_mcmahan": (models.cnn_mcmahan(), IMAGE),
    "cnn_w1": (models.cnn_w1(norm="batch"), IMAGE),
    "lstm": (models.lstm_chars(3), jnp.zeros((1, 7), jnp.int32)),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_head_of_a_built_in_model_is_its_layer_head(name):
    model, x = BUILT_IN[name]
    params = shapes(model, 3, x)
    assert chosen(params, "head") == {"head.b", "head.w"}
    assert chosen(params, "body") == set(parts.names(params)) - {"head.b", "head.w"}


class Eleven(linen.Module):
    """Dense_0 .. Dense_10."""

    @linen.compact
    def __call__(self, x):
        for _ in range(10):
            x = linen.relu(linen.Dense(4)(x))
        return linen.Dense(3)(x)


class Picture(linen.Module):
    """Convolutions and norms below one dense layer."""

    @linen.compact
    def __call__(self, x):
        for _ in range(3):
            x = linen.LayerNorm()(linen.Conv(4, (3, 3))(x))
        return linen.Dense(3)(x.reshape(x.shape[0], -1))


class Attributes(nnx.Module):
    """Layers called by their author."""

    def __init__(self, last, rngs):
        self.conv1 = nnx.Conv(1, 2, (3, 3), rngs=rngs)
        self.linear1 = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        setattr(self, last, nnx.Linear(4, 3, rngs=rngs))

    def __call__(self, x):
        return x


def nnx_params(make):
    return nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param, ...)[1])


def test_the_head_of_flax_modules_goes_by_natural_order():
    assert chosen(shapes(Eleven(), 3, ROW), "head") == {"Dense_10.bias", "Dense_10.kernel"}
    assert chosen(shapes(Picture(), 3, IMAGE), "head") == {"Dense_0.bias", "Dense_0.kernel"}
    numbered = nnx_params(lambda rngs: Attributes("linear2", rngs))
    assert chosen(numbered, "head") == {"linear2.bias", "linear2.kernel"}
    row = nnx_params(lambda rngs: nnx.Sequential(*(nnx.Linear(4, 4, rngs=rngs) for _ in range(11))))
    assert chosen(row, "head") == {"layers.10.bias", "layers.10.kernel"}


def test_a_head_that_cannot_be_told_is_asked_for():
    unclear = nnx_params(lambda rngs: Attributes("last", rngs))
    for params in (unclear, {"a": LAYER, "b": LAYER}, {"w1": np.ones((2, 2)), "w2": np.ones(2)}):
        for rule in ("head", "body"):
            with pytest.raises(InputError, match="re:PATTERN") as told:
                parts.mask(params, rule)
            assert all(name in str(told.value) for name in parts.names(params))


def test_norms_are_found_by_what_they_hold_or_are_called():
    scales = {f"norm_{i}.{n}" for i in range(3) for n in ("scale", "bias")}
    assert chosen(shapes(models.cnn_w1(norm="group"), 3, IMAGE), "norms") == scales
    layers = {f"LayerNorm_{i}.{n}" for i in range(3) for n in ("scale", "bias")}
    assert chosen(shapes(Picture(), 3, IMAGE), "norms") == layers
    own = {"bn1": {"weight": np.ones(2), "bias": np.ones(2)}, "lnear": LAYER}
    assert chosen(own, "norms") == {"bn1.weight", "bn1.bias"}


def test_patterns_functions_and_the_two_words():
    params = {"dense_0": LAYER, "head": LAYER}
    assert chosen(params, "re:^dense.*b$") == {"dense_0.b"}
    assert chosen(params, lambda path: path.endswith(".w")) == {"dense_0.w", "head.w"}
    assert chosen(params, "all") == set(parts.names(params))
    assert chosen(params, "none") == set()


REFUSED = [
    ("re:nothing", "selects nothing.*dense_0.b, dense_0.w, head.b, head.w"),
    ("re:.", "selects everything.*head.w"),
    (lambda path: True, "selects everything"),
    ("norms", "selects nothing"),
    ("re:(", "no regular expression"),
    ("tail", "must be head, body, norms"),
]


@pytest.mark.parametrize(("rule", "words"), REFUSED)
def test_rules_that_part_nothing_are_refused(rule, words):
    with pytest.raises(InputError, match=words) as told:
        parts.mask({"dense_0": LAYER, "head": LAYER}, rule, field="here")
    assert told.value.field == "here"


def test_a_model_of_one_layer_has_no_body():
    with pytest.raises(InputError, match="selects everything"):
        parts.mask({"head": LAYER}, "head")


@pytest.mark.parametrize("rule", ["head", "body", "all", "none", "re:w$"])
def test_cutting_and_joining_give_the_tree_back(rule):
    """Also where None stands in the tree already."""
    params = {"dense_0": LAYER | {"none": None}, "head": {k: 2 * v for k, v in LAYER.items()}}
    where = parts.mask(params, rule)
    taken, rest = parts.pick(params, where), parts.without(params, where)
    assert len(taken) + len(jax.tree.leaves(rest)) == 4
    assert_trees_equal(parts.fill(rest, where, taken), params)
    zeros = [np.zeros_like(leaf) for leaf in taken]
    moved = parts.put(params, where, zeros)
    assert jax.tree.structure(moved) == jax.tree.structure(params)
    assert all(not leaf.any() for leaf in parts.pick(moved, where))
    assert_trees_equal(parts.without(moved, where), rest)
    with pytest.raises(ValueError, match="more leaves"):
        parts.fill(rest, where, (*taken, LAYER["w"]))
