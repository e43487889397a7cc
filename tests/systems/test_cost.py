"""What a step costs: XLA's count and ours of the jaxpr; shares of work as whole steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.engine.lane_shapes import program_flops
from fedjax_sim.systems.cost import share_of, step_flops, steps_of


def test_a_product_costs_two_operations_a_term():
    step = jax.make_jaxpr(lambda a, b: a @ b)(jnp.ones((3, 5)), jnp.ones((5, 7)))
    assert step_flops(step, lambda jaxpr: pytest.fail("not asked")) == 2 * 3 * 5 * 7


def test_loops_are_counted_as_often_as_they_run():
    """XLA counts a loop's body once; there the count of the jaxpr decides."""

    def loop(x):
        return jax.lax.scan(lambda c, _: (c @ x, None), x, length=9)[0]

    step = jax.make_jaxpr(jax.jit(loop))(jnp.ones((4, 4)))
    assert step_flops(step, program_flops) == pytest.approx(9 * 2 * 64, rel=0.2)


def test_a_step_without_a_count_costs_something():
    step = jax.make_jaxpr(lambda x: x)(jnp.ones(3))
    assert step_flops(step, lambda jaxpr: 0.0) == 1.0


def test_shares_give_back_their_steps_exactly():
    full = np.repeat([1, 2, 7, 100, 4096, 1_000_003], 2)
    rng = np.random.default_rng(0)
    steps = np.concatenate([rng.integers(1, full + 1) for _ in range(50)])
    full = np.tile(full, 50)
    share = share_of(jnp.asarray(steps), jnp.asarray(full))
    assert (np.asarray(share) > 0).all() and (np.asarray(share) <= 1).all()
    np.testing.assert_array_equal(steps_of(jnp.asarray(full), share), steps)
    assert (np.asarray(share)[steps == full] == 1).all()
