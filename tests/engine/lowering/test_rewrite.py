"""The walk: programs inside programs, real models, and what must stay as it is."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import quick_jit
from jax import lax
from sparing import few

from fedjax_sim.core.checks import InputError
from fedjax_sim.engine.lowering import Rules, lower, rules_for

CPU = rules_for("cpu")
FORM = ("NHWC", "HWIO", "NHWC")


def close(got, want):
    """Within float32's rounding of sums, against the largest entry of the tree."""
    scale = max(float(jnp.max(jnp.abs(e))) for e in jax.tree.leaves(want)) + 1e-6
    for g, e in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, e, rtol=0, atol=2e-5 * scale)


def layer(w, x):
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=FORM)
    return jnp.tanh(y)


def data(n=2):
    keys = jax.random.split(jax.random.key(0), 2)
    w = 0.3 * jax.random.normal(keys[0], (3, 3, 4, 4))
    return w, jax.random.normal(keys[1], (n, 6, 6, 4))


def looped(w, x):
    return jnp.sum(lax.scan(lambda c, _: (layer(w, c), None), x, length=3)[0])


def counted(w, x):
    more = lambda c: (c[0] < 3) & (jnp.sum(layer(w, c[1])) > -1e9)  # noqa: E731
    return lax.while_loop(more, lambda c: (c[0] + 1, layer(w, c[1])), (0, x))[1]


def branched(w, x):
    return lax.switch(jnp.int32(x[0, 0, 0, 0] > 0), [lambda x: x, lambda x: layer(w, x)], x)


@jax.custom_vjp
def custom(w, x):
    return layer(w, x)


custom.defvjp(
    lambda w, x: (layer(w, x), (w, x)),
    lambda kept, g: tuple(2 * v for v in jax.vjp(layer, *kept)[1](g)),  # twice the true one
)


PROGRAMS = {
    "scan": jax.grad(looped),
    "reverse scan": lambda w, x: lax.scan(
        lambda c, a: (c + jnp.sum(layer(w, a[None])), c), jnp.zeros(()), x, reverse=True
    ),
    "while": counted,
    "cond": jax.grad(lambda w, x: jnp.sum(branched(w, x))),
    "jit": jax.grad(lambda w, x: jnp.sum(jax.jit(layer)(w, x))),
    "checkpoint": jax.grad(lambda w, x: jnp.sum(jax.checkpoint(looped)(w, x))),
    "custom_vjp": jax.grad(lambda w, x: jnp.sum(custom(w, x))),
    "literal and dropped outputs": lambda w, x: (jnp.zeros(3), layer(w, x), 1.0, x),
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_inside_programs(program):
    w, x = data()
    assert "custom_vmap_call" in str(jax.make_jaxpr(lower(program, CPU))(w, x))
    close(quick_jit(lower(program, CPU))(w, x), quick_jit(program)(w, x))
    stack = lambda v: jnp.stack([v, -v])  # noqa: E731
    got = quick_jit(jax.vmap(lower(program, CPU)))(stack(w), stack(x))
    close(got, quick_jit(jax.vmap(program))(stack(w), stack(x)))


def test_rematerialization_stays():
    w, x = data()
    lowered = lower(jax.grad(lambda w, x: jnp.sum(jax.checkpoint(looped)(w, x))), CPU)
    assert "prevent_cse=True" in str(jax.make_jaxpr(lowered)(w, x))


def test_a_program_without_anything_slow_is_untouched():
    f = jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w) ** 2))
    w, x = jnp.ones((5, 3)), jnp.ones((4, 5))
    assert str(jax.make_jaxpr(lower(f, CPU))(w, x)) == str(jax.make_jaxpr(f)(w, x))


def test_no_rule_no_change():
    w, x = data()
    program = PROGRAMS["jit"]
    lowered = lower(program, Rules())
    assert str(jax.make_jaxpr(lowered)(w, x)) == str(jax.make_jaxpr(program)(w, x))


def test_an_unknown_lane_rule_is_refused():
    with pytest.raises(InputError, match=r"lowering.lanes = spiral: must be one of"):
        Rules("spiral")


def test_tall_products_the_other_way_round():
    w, x = (jnp.asarray(v, jnp.float32) for v in np.random.default_rng(0).normal(size=(2, 4, 4)))
    w, x = jnp.tile(w, (1024, 64)), jnp.tile(x, (2, 64))  # [4096, 256], [8, 256]
    dot = lambda x, w: lax.dot_general(x, w, (((1,), (1,)), ((), ())))  # noqa: E731
    lowered = lower(dot, CPU)
    assert "optimization_barrier" in str(jax.make_jaxpr(lowered)(x, w))
    close(lowered(x, w), dot(x, w))
    close(jax.vmap(lowered)(x[None], w[None])[0], dot(x, w))


class Residual(nn.Module):
    """A small residual network with group norm and mean pooling."""

    @nn.compact
    def __call__(self, x):
        """Logits."""
        for width, stride in ((8, 1), (16, 2)):
            y = nn.Conv(width, (3, 3), strides=stride, use_bias=False)(x)
            y = nn.relu(nn.GroupNorm(num_groups=4)(y))
            y = nn.Conv(width, (3, 3))(y)
            x = nn.relu(y + nn.Conv(width, (1, 1), strides=stride)(x))
        return nn.Dense(10)(nn.avg_pool(x, (2, 2), (2, 2)).mean((1, 2)))


class Normed(nn.Module):
    """Batch norm, dropout, max pooling, a dilated and a depthwise convolution."""

    @nn.compact
    def __call__(self, x):
        """Logits."""
        x = nn.BatchNorm(use_running_average=False)(nn.Conv(8, (5, 5), kernel_dilation=2)(x))
        x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
        x = nn.Dropout(0.3, deterministic=False)(nn.Conv(8, (3, 3), feature_group_count=8)(x))
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


class Plain(nnx.Module):
    """Convolution, pooling, dense, in nnx."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.dense = nnx.Linear(8 * 16, 10, rngs=rngs)

    def __call__(self, x):
        """Logits."""
        x = nnx.max_pool(nnx.relu(self.conv(x)), (2, 2), (2, 2))
        return self.dense(x.reshape(x.shape[0], -1))


def linen(module):
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = module.init({"params": jax.random.key(2), "dropout": jax.random.key(3)}, x)
    params = variables.pop("params")

    def loss(params, x):
        out, _ = module.apply(
            {"params": params, **variables},
            x,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(4)},
        )
        return jnp.sum(jnp.sin(out))

    return loss, params, x


def plain():
    graph, params = nnx.split(Plain(nnx.Rngs(0)), nnx.Param)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    return lambda p, x: jnp.sum(jnp.sin(nnx.merge(graph, p)(x))), params, x


MODELS = {"residual": lambda: linen(Residual()), "normed": lambda: linen(Normed()), "nnx": plain}


@pytest.mark.parametrize("make", few(MODELS.values(), plain), ids=MODELS)
def test_real_models(make):
    loss, params, x = make()
    grad = jax.grad(loss)
    along = jax.tree.map(jnp.cos, params)
    programs = {
        "grad": grad,
        "step of maml": jax.grad(
            lambda p, x: loss(jax.tree.map(lambda a, g: a - 0.1 * g, p, grad(p, x)), x)
        ),
        "hessian-vector product": lambda p, x: jax.jvp(lambda p: grad(p, x), (p,), (along,))[1],
        "linearize": lambda p, x: jax.linearize(lambda p: grad(p, x), p)[1](along),
    }
    lanes = jax.tree.map(lambda v: jnp.stack([v, 0.9 * v]), params)
    together = lambda p, x: {name: program(p, x) for name, program in programs.items()}  # noqa: E731
    got, want = quick_jit(lower(together, CPU))(params, x), quick_jit(together)(params, x)
    for name in programs:
        close(got[name], want[name])
    got = quick_jit(jax.vmap(lower(grad, CPU), (0, None)))(lanes, x)
    close(got, quick_jit(jax.vmap(grad, (0, None)))(lanes, x))
