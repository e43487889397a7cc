"""Programs with a conditional, read and cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.branches import always, branch_of, conditional


def _program(t, work):
    first = t * 2
    small = jax.lax.cond(work > 0, lambda: work + 1, lambda: work)
    late = jax.lax.cond(first < 6, lambda: small * 2, lambda: jnp.cos(small) + first + small)
    return late + first, first


TRACED = jax.make_jaxpr(_program)(jnp.int32(0), jnp.float32(0))


def test_the_conditional_that_does_most_is_chosen_among_those_allowed():
    largest = conditional(TRACED)
    assert largest is not None and conditional(TRACED, {0, 1}) is largest
    assert conditional(TRACED, {0}) is largest  # the other one looks at the work
    other = conditional(TRACED, {1})
    assert other is not None and other is not largest
    assert conditional(TRACED, set()) is None
    assert conditional(jax.make_jaxpr(jnp.sin)(1.0)) is None


@pytest.mark.parametrize("t", [1, 4])
def test_the_program_that_always_takes_a_branch_is_the_program_where_it_takes_it(t):
    chosen = conditional(TRACED, {0})
    values = (jnp.int32(t), jnp.float32(0.7))
    taken = int(branch_of(TRACED, chosen)(*values))
    assert taken == (t < 3) == int(branch_of(TRACED, chosen)(values[0], None))
    want = _program(*values)
    for branch in (0, 1):
        got = always(TRACED, chosen, branch)(*values)
        assert (float(got[0]) == pytest.approx(float(want[0]))) == (branch == taken)
        np.testing.assert_array_equal(got[1], want[1])
