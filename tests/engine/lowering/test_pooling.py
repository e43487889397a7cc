"""Lowered pooling equals the stock operations, ties and NaN included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from jax import lax

from fedjax_sim.engine.lowering import lower, rules_for

CPU = rules_for("cpu")


def pool(kind, window=(1, 2, 2, 1), strides=None, padding="VALID"):
    start, fold = {"max": (-jnp.inf, lax.max), "mean": (0.0, lax.add)}[kind]
    strides = strides or window
    return lambda x: lax.reduce_window(x, start, fold, window, strides, padding)


def images(shape=(2, 7, 6, 3), seed=0, ties=False):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, shape) if ties else rng.normal(size=shape)
    return jnp.asarray(x, jnp.float32)


CASES = {
    "disjoint": {},
    "wide": {"window": (1, 3, 2, 1)},
    "channels": {"window": (1, 2, 2, 3)},
    "overlapping": {"window": (1, 3, 3, 1), "strides": (1, 2, 2, 1)},
    "padded": {"padding": "SAME"},
    "one step": {"strides": (1, 1, 1, 1), "padding": "SAME"},
}


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("kind", ["max", "mean"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_pooling_and_its_derivatives(case, kind, ties):
    f, x = pool(kind, **case), images(ties=ties)
    grad = jax.grad(lambda x: jnp.sum(jnp.sin(f(x))))
    programs = {
        "forward": f,
        "grad": grad,
        "jvp of grad": lambda x: jax.jvp(grad, (x,), (jnp.cos(x),))[1],
        "grad of grad": jax.grad(lambda x: jnp.sum(grad(x) ** 2)),
        "lanes": lambda x: jax.vmap(grad)(jnp.stack([x, x + 1])),
    }
    together = lambda x: {name: program(x) for name, program in programs.items()}  # noqa: E731
    got, want = quick_jit(lower(together, CPU))(x), quick_jit(together)(x)
    for name in programs:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5, err_msg=name)
    lanes = jnp.stack([x, x[::-1]])
    got = quick_jit(jax.vmap(lower(grad, CPU)))(lanes)
    np.testing.assert_allclose(got, quick_jit(jax.vmap(grad))(lanes), rtol=1e-5, atol=1e-5)


def test_the_gradient_of_disjoint_maxima_is_bitwise_stock():
    x = images((3, 8, 8, 4), ties=True)
    f = pool("max")
    grad = jax.grad(lambda x: jnp.sum(f(x) ** 2))
    lowered = lower(grad, CPU)
    assert "select_and_scatter_add" not in str(jax.make_jaxpr(lowered)(x))
    np.testing.assert_array_equal(lowered(x), grad(x))


def test_nan_goes_where_stock_sends_it():
    x = images((1, 4, 4, 2)).at[0, 0, 1, 0].set(jnp.nan).at[0, 3, 3, 1].set(jnp.nan)
    f = pool("max")
    grad = jax.grad(lambda x: jnp.sum(f(x)))
    np.testing.assert_array_equal(lower(f, CPU)(x), f(x))
    np.testing.assert_array_equal(lower(grad, CPU)(x), grad(x))


@pytest.mark.parametrize("case", ["overlapping", "padded"])
def test_gradients_of_other_maxima_are_left_alone(case):
    f, x = pool("max", **CASES[case]), images()
    program = jax.linear_transpose(lambda t: jax.jvp(f, (x,), (t,))[1], x)
    y = f(x)
    lowered = lower(lambda y: program(y)[0], CPU)
    assert "select_and_scatter_add" in str(jax.make_jaxpr(lowered)(y))


def test_integers_are_left_alone():
    x = jnp.arange(16).reshape(1, 4, 4, 1)
    window = (1, 2, 2, 1)
    f = lambda x: lax.reduce_window(x, 0, lax.add, window, window, "VALID")  # noqa: E731
    assert str(jax.make_jaxpr(lower(f, CPU))(x)) == str(jax.make_jaxpr(f)(x))
