"""Programs with a conditional, read and cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.branches import always, branch_by, branch_of, conditional


def _program(t, work):
    first = t * 2
    small = jax.lax.cond(work > 0, lambda: work + 1, lambda: work)
    late = jax.lax.cond(first < 6, lambda: small * 2, lambda: jnp.cos(small) + first + small)
    return late + first, first


TRACED = jax.make_jaxpr(_program)(jnp.int32(0), jnp.float32(0))


def test_the_conditional_that_does_most_is_chosen_among_those_allowed():
    largest = conditional(TRACED)
    assert largest is not None and conditional(TRACED, by=0) is largest
    assert conditional(TRACED, by=1) is not largest  # the other one, that looks at the work
    assert conditional(TRACED, by=1) is not None
    assert conditional(jax.make_jaxpr(jnp.sin)(1.0)) is None


def _by_draw(t, work):
    key = jax.random.fold_in(jax.random.key(0), t)
    return jax.lax.cond(jax.random.bernoulli(key), lambda: work, lambda: -work)


def _by_both(t, work):
    return jax.lax.cond(t < work, lambda: work, lambda: -work)


def _by_neither(t, work):
    known = jnp.arange(3)
    return jax.lax.cond(known[1] > 0, lambda: work, lambda: -work)


@pytest.mark.parametrize("f", [_by_draw, _by_both, _by_neither])
def test_only_a_comparison_of_that_argument_counts(f):
    program = jax.make_jaxpr(f)(jnp.int32(0), jnp.float32(0))
    assert conditional(program) is not None and conditional(program, by=0) is None


@pytest.mark.parametrize("t", [1, 4])
def test_the_program_that_always_takes_a_branch_is_the_program_where_it_takes_it(t):
    chosen = conditional(TRACED, by=0)
    values = (jnp.int32(t), jnp.float32(0.7))
    taken = int(branch_of(TRACED, chosen)(*values))
    assert taken == (t < 3) == int(branch_by(TRACED, chosen, 0)(values[0]))
    want = _program(*values)
    for branch in (0, 1):
        got = always(TRACED, chosen, branch)(*values)
        assert (float(got[0]) == pytest.approx(float(want[0]))) == (branch == taken)
        np.testing.assert_array_equal(got[1], want[1])
