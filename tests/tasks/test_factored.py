"""Kernels beside low-rank factors: as if they were added up, and they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_trees_close

from fedjax_sim.core.programs import called
from fedjax_sim.tasks import factored, lora

SHAPES = {"bias": (1, 5), "conv": (3, 3, 1, 2), "tied": (5, 6), "w": (4, 5), "z": (5, 5)}
RANK, ALPHA = 2, 3.0


def dense(p, x):
    return jnp.tanh(x @ p["w"] + p["bias"])


def jitted(p, x):
    return jax.jit(lambda w, x: jax.nn.relu(x @ w))(p["w"], x) + p["bias"]


def tied(p, x):
    """Into six and back by the same kernel."""
    h = dense(p, x) @ p["tied"]
    return h @ p["tied"].T + jnp.einsum("bj,kj->bk", h, p["tied"])


def narrow(p, x):
    return (x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16)).astype(jnp.float32)


def odd(p, x):
    """What is not a product with a matrix."""
    picture = jnp.outer(x[0], x[0])[None, :, :, None]
    made = jax.lax.conv_general_dilated(
        picture, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    turned, _ = jax.lax.scan(lambda h, _: (jnp.tanh(h @ p["z"]), None), dense(p, x), None, 3)
    return jnp.sum(made) + turned + (p["w"][0] + p["z"] @ p["bias"][0])[None]


def drawn(seed=0):
    keys = iter(jax.random.split(jax.random.key(seed), 40))

    def noise(x):
        return jax.random.normal(next(keys), x.shape, x.dtype)

    params = {n: jax.random.normal(next(keys), s) for n, s in SHAPES.items()}
    return params, jax.tree.map(noise, lora.no_factors(params, RANK)), noise(jnp.zeros((7, 4)))


def both(f):
    params, factors, x = drawn()

    def apart(factors, x):
        return jnp.sum(factored.evaluate(lambda p: f(p, x), params, factors, ALPHA) ** 2)

    def merged(factors, x):
        return jnp.sum(f(lora.merged(params, factors, ALPHA), x) ** 2)

    return apart, merged, factors, x


@pytest.mark.parametrize("f", [dense, jitted, tied, narrow, odd], ids=lambda f: f.__name__)
def test_value_and_gradient_are_those_of_the_sum(f):
    apart, merged, factors, x = both(f)
    found = jax.jit(jax.value_and_grad(apart))(factors, x)
    wanted = jax.value_and_grad(merged)(factors, x)
    close = {"rtol": 0.05, "atol": 1.0} if f is narrow else {"rtol": 2e-4, "atol": 2e-4}
    assert_trees_close(found, wanted, **close)
    assert max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(found[1])) > 1


def test_lanes_share_the_frozen_kernel():
    apart, merged, factors, x = both(dense)
    several = jax.tree.map(lambda a: jnp.stack([a, 2 * a, 0 * a]), factors)
    xs = jnp.stack([x, x + 1, 2 * x])
    found = jax.vmap(jax.grad(apart))(several, xs)
    assert_trees_close(found, jax.vmap(jax.grad(merged))(several, xs), rtol=2e-4, atol=2e-4)


def shapes_made(jaxpr):
    for eqn in jaxpr.eqns:
        yield from (v.aval.shape for v in eqn.outvars)
        inner = called(eqn)
        if inner is not None:
            yield from shapes_made(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("f", [dense, jitted], ids=lambda f: f.__name__)
def test_no_array_of_a_kernels_shape_is_made(f):
    apart, merged, factors, x = both(f)
    made = [
        set(shapes_made(jax.make_jaxpr(jax.grad(g))(factors, x).jaxpr)) for g in (apart, merged)
    ]
    assert SHAPES["w"] not in made[0]
    assert SHAPES["w"] in made[1]


def test_structures_pass():
    params, factors, x = drawn()
    found = factored.evaluate(lambda p: (x, {"w": p["w"], "n": 3}), params, factors, ALPHA)
    np.testing.assert_array_equal(found[0], x)
    np.testing.assert_allclose(found[1]["w"], lora.merged(params, factors, ALPHA)["w"], rtol=1e-6)
    assert found[1]["n"] == 3
