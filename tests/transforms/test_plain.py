"""Which optimizers only scale, and by what."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_trees_close

from fedjax_sim.transforms.plain import scales

PARAMS = {"b": jnp.zeros(2), "w": jnp.zeros((3, 2))}


def by_leaf(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key, params)


SCALING = {
    "sgd": (optax.sgd(0.3), {"b": 0.3, "w": 0.3}),
    "chained": (optax.chain(optax.scale(2.0), optax.sgd(0.3), optax.identity()), 0.6),
    "by leaf": (
        optax.multi_transform({"b": optax.sgd(0.1), "w": optax.sgd(0.2)}, by_leaf),
        {"b": 0.1, "w": 0.2},
    ),
}
OTHERS = {
    "momentum": optax.sgd(0.3, momentum=0.5),
    "adam": optax.adam(0.3),
    "decay": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.3)),
    "clip": optax.chain(optax.clip(1.0), optax.sgd(0.3)),
    "clip by norm": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.3)),
    "schedule": optax.sgd(lambda count: 0.3 / (1 + count)),
    "sign": optax.sign_sgd(0.3),
    "squared": optax.stateless(lambda g, _: jax.tree.map(lambda x: -x * x, g)),
    "shifted": optax.stateless(lambda g, _: jax.tree.map(lambda x: 1 - x, g)),
    "inverse": optax.stateless(lambda g, _: jax.tree.map(lambda x: 1 / x, g)),
    "mixed leaves": optax.stateless(lambda g, _: {"b": g["w"][0], "w": g["w"]}),
    "turned": optax.stateless(lambda g, _: {"b": g["b"][::-1], "w": g["w"]}),
    "frozen": optax.stateless(lambda g, _: {"b": jnp.zeros(2), "w": g["w"]}),
}


@pytest.mark.parametrize("name", SCALING)
def test_what_only_scales(name):
    optimizer, want = SCALING[name]
    want = want if isinstance(want, dict) else dict.fromkeys(PARAMS, want)
    found = scales(optimizer, PARAMS)
    assert_trees_close(found, {n: jnp.full(v.shape, want[n]) for n, v in PARAMS.items()}, rtol=1e-6)
    grads = jax.tree.map(lambda p: jnp.arange(p.size, dtype=p.dtype).reshape(p.shape), PARAMS)
    update, _ = optimizer.update(grads, optimizer.init(PARAMS))
    assert_trees_close(update, jax.tree.map(lambda a, g: -a * g, found, grads), rtol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_more(name):
    assert scales(OTHERS[name], PARAMS) is None


def test_a_traced_rate():
    found = jax.jit(lambda lr: scales(optax.sgd(lr), PARAMS))(0.25)
    np.testing.assert_array_equal(found["w"], np.full((3, 2), 0.25, np.float32))
