"""An order that the compiler keeps, and that changes no bit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core import order

AWKWARD = {
    "float32": np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1.5], np.float32),
    "bfloat16": jnp.array([0.0, -0.0, np.nan, 1.5], jnp.bfloat16),
    "int32": np.array([-1, 0, 2**31 - 1], np.int32),
    "bool": np.array([True, False]),
    "none": np.zeros((0, 3), np.float32),
    "scalar": np.float32(-0.0),
}


@pytest.mark.parametrize("jitted", [False, True])
def test_every_bit_stays(jitted):
    f = jax.jit(order.after) if jitted else order.after
    got = f(AWKWARD, AWKWARD)
    for name, value in AWKWARD.items():
        assert got[name].dtype == value.dtype
        assert np.asarray(got[name]).tobytes() == np.asarray(value).tobytes(), name


def test_gradients_pass():
    def f(x):
        return jnp.sum(order.after(x, (x, 2 * x)) ** 2)

    np.testing.assert_array_equal(jax.grad(f)(jnp.arange(3.0)), [0.0, 2.0, 4.0])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere values are as they are")
@pytest.mark.parametrize("ordered", [False, True])
def test_a_loop_then_writes_in_place(ordered):
    """A kernel that the backward pass reads is copied at each step unless the order is told."""

    def loss(params, x):
        a, b, c = params
        return jnp.sum(jnp.tanh(jnp.tanh(jnp.tanh(x @ a) @ b) @ c) ** 2)

    def step(i, params):
        grads = jax.grad(loss)(params, jnp.ones((10, 64)) + i)
        grads = order.after(grads, grads) if ordered else grads
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    params = [jnp.full((64, 64), 0.01)] * 3
    text = compiled(lambda p: jax.lax.fori_loop(0, 9, step, p), params)
    body = re.search(r"body=%?([\w.\-]+)", text).group(1)
    text = text.split(f"%{body} (", 1)[1].split("\n}\n", 1)[0]
    assert (copies(text) == 0) == ordered, text


def double(values):
    return {n: v if v.dtype == bool else v + v for n, v in values.items()}


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("true", [False, True])
def test_a_change_now_and_then(jitted, true):
    values = jax.tree.map(jnp.asarray, AWKWARD)
    f = jax.jit(order.when, static_argnums=1) if jitted else order.when
    got, want = f(jnp.asarray(true), double, values), double(values) if true else values
    for name, value in want.items():
        assert got[name].dtype == value.dtype
        assert np.asarray(got[name]).tobytes() == np.asarray(value).tobytes(), name


def test_of_several_each_changes_or_not():
    got = jax.vmap(lambda t, x: order.when(t, lambda v: v + 1, x))(
        jnp.array([True, False]), jnp.arange(2.0)
    )
    np.testing.assert_array_equal(got, [1.0, 1.0])


def test_a_value_that_stays_is_copied_less():
    """Rows of a table, written in the rounds that a count decides, and taken back if not finite."""

    def turns(choose):
        def turn(i, table):
            new = choose(i % 5 == 3, lambda t: t.at[i % 64].set(jnp.sum(t)), table)
            return jnp.where(jnp.isfinite(new[0, 0]), new, table)

        return lambda table: jax.lax.fori_loop(0, 9, turn, table)

    def branch(true, change, table):
        return jax.lax.cond(true, change, lambda t: t, table)

    table = jnp.ones((64, 64))
    np.testing.assert_array_equal(turns(order.when)(table), turns(branch)(table))
    assert copies(compiled(turns(order.when), table)) < copies(compiled(turns(branch), table))


def compiled(f, *args):
    return jax.jit(f).lower(*args).compile().as_text()


def copies(text):
    return len(re.findall(r"= f32\[64,64\]\S* copy\(", text))
