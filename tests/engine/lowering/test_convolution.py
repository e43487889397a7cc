"""Lowered convolutions equal the stock ones under every transformation of the step."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from jax import lax
from sparing import few

from fedjax_sim.engine.lowering import Rules, lower, rules_for
from fedjax_sim.engine.lowering import convolution as convolutions

RULES = {
    "cpu": rules_for("cpu"),
    "products": Rules("products", canonical=True),
    "grouped": Rules("grouped", canonical=True, micro=True),
}


def conv(x, w, *, rank=2, strides=1, padding="VALID", lhs=1, rhs=1, groups=1, order="last", o=6):
    """A convolution of `rank` spatial axes with its channels first or last."""
    del o
    spatial = "HWD"[:rank]
    forms = {
        "last": (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        "first": (f"NC{spatial}", f"OI{spatial}", f"NC{spatial}"),
        "mixed": (f"C{spatial}N", f"I{spatial}O", f"{spatial}NC"),
    }
    return lax.conv_general_dilated(
        x,
        w,
        (strides,) * rank,
        padding if isinstance(padding, str) else [padding] * rank,
        lhs_dilation=(lhs,) * rank,
        rhs_dilation=(rhs,) * rank,
        dimension_numbers=forms[order],
        feature_group_count=groups,
    )


def operands(rank=2, side=9, kernel=3, c=4, o=6, n=4, groups=1, order="last", seed=0):
    rng = np.random.default_rng(seed)
    image, window = (side,) * rank, (kernel,) * rank
    shapes = {
        "last": ((n, *image, c), (*window, c // groups, o)),
        "first": ((n, c, *image), (o, c // groups, *window)),
        "mixed": ((c, *image, n), (c // groups, *window, o)),
    }[order]
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def programs(f):
    """`(w, x) -> {name: result}`: what a step may do with a model, after differentiation."""
    loss = lambda w, x: jnp.sum(jnp.tanh(f(x, w)))  # noqa: E731
    grad = jax.grad(loss, argnums=(0, 1))
    kinds = {
        "forward": lambda w, x: f(x, w),
        "grad": grad,
        "vmap of grad": lambda w, x: jax.vmap(grad, (None, 0))(w, jnp.stack([x, 2 * x])),
        "grad of grad": jax.grad(lambda w, x: sum(jnp.sum(g**2) for g in grad(w, x)), (0, 1)),
        "jvp of grad": lambda w, x: jax.jvp(grad, (w, x), (x.mean() * w, jnp.cos(x)))[1],
        "linearize": lambda w, x: jax.linearize(lambda w: grad(w, x), w)[1](jnp.sin(w)),
    }
    return lambda w, x: {name: kind(w, x) for name, kind in kinds.items()}


def gradient(f):
    return jax.grad(lambda w, x: jnp.sum(jnp.tanh(f(x, w))), argnums=(0, 1))


def assert_close(got, want):
    """Within float32's rounding of sums, against the largest entry."""
    pairs = zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True)
    for (path, g), e in pairs:
        scale = float(jnp.max(jnp.abs(e))) + 1e-6
        np.testing.assert_allclose(
            g, e, rtol=0, atol=2e-5 * scale, err_msg=jax.tree_util.keystr(path)
        )


CASES = [
    *({"rank": r, "order": o} for r, o in itertools.product((1, 2, 3), ("last", "first", "mixed"))),
    *({"strides": s, "padding": p} for s, p in itertools.product((1, 2, 3), ("VALID", "SAME"))),
    {"padding": (2, 1)},
    {"padding": (-1, 2)},
    {"strides": 2, "padding": (1, 0), "order": "first"},
    {"lhs": 2, "padding": (2, 2)},
    {"rhs": 2, "padding": "SAME"},
    {"lhs": 2, "rhs": 2, "strides": 3, "padding": (4, 3)},
    {"rank": 1, "strides": 2, "rhs": 3, "padding": (3, 3)},
    {"rank": 3, "strides": 2, "padding": "SAME", "order": "first"},
]
GROUPED = [
    {"groups": 2},
    {"groups": 4, "order": "first", "o": 8},
    {"groups": 2, "strides": 2, "padding": "SAME"},
]


def split(case):
    return {k: v for k, v in case.items() if k in ("rank", "order", "groups", "o")}


@pytest.mark.parametrize("case", few(CASES + GROUPED, *CASES[::4], GROUPED[2]), ids=str)
def test_every_program_equals_the_stock_one(case):
    x, w = operands(**split(case))
    program = programs(lambda x, w: conv(x, w, **case))
    want = quick_jit(program)(w, x)
    for rules in RULES.values():
        assert_close(quick_jit(lower(program, rules))(w, x), want)


@pytest.mark.parametrize("axes", few([(0, 0), (None, 0), (0, None)], (0, 0)), ids=str)
@pytest.mark.parametrize(
    "case", few([CASES[0], CASES[4], CASES[9], GROUPED[2]], CASES[4], GROUPED[2]), ids=str
)
def test_lanes(case, axes):
    x, w = operands(**split(case))
    lanes = lambda v, axis: v if axis is None else jnp.stack([v, 0.5 * v, v - 1])  # noqa: E731
    args = lanes(w, axes[0]), lanes(x, axes[1])
    program = programs(lambda x, w: conv(x, w, **case))
    want = quick_jit(jax.vmap(program, axes))(*args)
    for rules in RULES.values():
        assert_close(quick_jit(jax.vmap(lower(program, rules), axes))(*args), want)


def test_lanes_of_runs():
    x, w = operands()
    stack = lambda v: jnp.stack([v, 0.5 * v])  # noqa: E731
    program = gradient(conv)
    args = stack(stack(w)), stack(stack(x))
    got = jax.vmap(jax.vmap(lower(program, RULES["cpu"])))(*args)
    assert_close(got, jax.vmap(jax.vmap(program))(*args))


@pytest.mark.parametrize("batch", [3, 8])
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_pieces_equal_the_whole(batch, padding, monkeypatch):
    monkeypatch.setattr(convolutions, "_LEAST_FLOP", 1.0)
    monkeypatch.setattr(convolutions, "_FLOP_A_BYTE", 0.0)
    monkeypatch.setattr(convolutions, "_TOO_LARGE_BYTES", 1)
    monkeypatch.setattr(convolutions, "_PIECE_BYTES", 1)
    monkeypatch.setattr(convolutions, "_THIN", 0)
    x, w = operands(n=batch, side=12)
    program = gradient(lambda x, w: conv(x, w, padding=padding))
    lowered = lower(program, RULES["cpu"])
    loops = str(jax.make_jaxpr(lowered)(w, x)).count("dynamic_update_slice")
    assert loops >= 2  # forward and input gradient are put together from pieces
    assert_close(lowered(w, x), program(w, x))


def test_a_piece_is_the_smallest_divisor_that_is_large_enough():
    assert [convolutions._divisor(12, least) for least in (0.1, 1.5, 3, 5, 7, 40)] == [
        1, 2, 3, 6, 12, 12,
    ]  # fmt: skip


def test_lanes_on_a_cpu_make_no_grouped_convolution():
    x, w = operands()
    program = gradient(conv)
    stack = lambda v: jnp.stack([v, v])  # noqa: E731
    stock = str(jax.make_jaxpr(jax.vmap(program))(stack(w), stack(x)))
    ours = str(jax.make_jaxpr(jax.vmap(lower(program, RULES["cpu"])))(stack(w), stack(x)))
    assert "feature_group_count=2" in stock
    assert "conv_general_dilated" in ours and "group_count=2" not in ours


@pytest.mark.parametrize("case", GROUPED, ids=str)
def test_grouped_convolutions_are_left_alone(case):
    x, w = operands(**split(case))
    program = gradient(lambda x, w: conv(x, w, **case))
    lowered = lower(program, RULES["cpu"])
    assert str(jax.make_jaxpr(lowered)(w, x)) == str(jax.make_jaxpr(program)(w, x))


def test_float64_is_left_alone(x64):
    x, w = (v.astype(jnp.float64) for v in operands())
    program = gradient(conv)
    lowered = lower(program, RULES["cpu"])
    assert str(jax.make_jaxpr(lowered)(w, x)) == str(jax.make_jaxpr(program)(w, x))


def test_a_forward_derivative_goes_through_a_lowered_program():
    x, w = operands()
    grad = gradient(conv)
    along = (jnp.sin(w), jnp.cos(x))
    got = jax.jvp(lower(grad, RULES["cpu"]), (w, x), along)
    assert_close(got, jax.jvp(grad, (w, x), along))
