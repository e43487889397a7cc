"""Transformations against their formulas, alone and inside local training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_sim.transforms.correction import add_correction, add_proximal, remember_sum
from fedjax_sim.transforms.schedule import scale_by_round, warmup

GRADS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
PARAMS = {"w": jnp.array([3.0, 4.0]), "b": jnp.array(-1.0)}
ANCHOR = {"w": jnp.array([1.0, 1.0]), "b": jnp.array(1.0)}


def close(tree, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), tree, expected)


def test_proximal_is_the_gradient_of_the_penalised_loss():
    def penalty(params):
        linear = sum(jnp.vdot(g, params[n]) for n, g in GRADS.items())
        square = sum(jnp.sum((params[n] - a) ** 2) for n, a in ANCHOR.items())
        return linear + 0.7 / 2 * square

    opt = add_proximal(0.7)
    ours, _ = opt.update(GRADS, opt.init(PARAMS), PARAMS, anchor=ANCHOR, round=3)
    close(ours, jax.grad(penalty)(PARAMS))


def test_correction_is_added():
    opt = add_correction()
    ours, _ = opt.update(GRADS, opt.init(PARAMS), PARAMS, correction=ANCHOR, step=1)
    close(ours, {"w": [2.0, -1.0], "b": 1.5})


def test_the_sum_of_what_passed_is_kept_and_nothing_changed():
    opt = remember_sum()
    state = opt.init(PARAMS)
    for _ in range(3):
        passed, state = opt.update(GRADS, state)
        close(passed, GRADS)
    close(state.total, {"w": [3.0, -6.0], "b": 1.5})


def test_a_round_schedule_follows_the_round_and_not_the_step():
    opt = optax.chain(optax.sgd(0.1), scale_by_round(optax.exponential_decay(1.0, 10, 0.5)))
    for index in (0, 10, 25):
        state = opt.init(PARAMS)
        for step in range(3):
            update, state = opt.update(GRADS, state, PARAMS, round=jnp.int32(index), step=step)
            close(update, jax.tree.map(lambda g, i=index: -0.1 * 0.5 ** (i / 10) * g, GRADS))


def test_warmup_takes_a_traced_peak():
    values = jax.jit(lambda peak: [warmup(peak, 4)(i) for i in range(6)])(0.8)
    np.testing.assert_allclose(values, [0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rtol=1e-6)
