"""Local steps that choose by their number: each choice a loop, and no number another."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.engine.unswitch import run_steps

COEF = jnp.float32([2.0, -3.0])


def _plain(step, first, n, work):
    for t in range(first, first + n):
        work = step(jnp.int32(t), work)
    return work


def _two(t, work):
    return jax.lax.cond(t < 3, lambda w: (w[0] + t, w[1]), lambda w: (w[0], w[1] * w[0] + t), work)


def _nested(t, work):
    def late(work):
        a, b = work
        b = jax.lax.cond(t == 3, lambda: a, lambda: b)
        return a, b * 0.5 + t

    a, b = jax.lax.cond(t < 3, lambda w: (w[0] + jnp.sin(w[1]), w[1]), late, work)
    return a * COEF, b  # something before and after the choice, and a constant


def _in_turn(t, work):
    a, b = work
    return jax.lax.switch(t - 2, [lambda: (a + 1, b), lambda: (a, b + a)])  # clamped to 0 and 1


def _by_work(t, work):
    a, b = work
    return jax.lax.cond(jnp.sum(a) > 4, lambda: (a - 3, b + t), lambda: (a + 1, b))


@pytest.mark.parametrize("step", [_two, _nested, _in_turn, _by_work])
@pytest.mark.parametrize(("first", "n"), [(0, 9), (0, 2), (2, 5), (5, 3), (4, 0)])
def test_every_step_is_the_step_of_its_number(step, first, n):
    work = (jnp.float32([1.0, 2.0]), jnp.float32([0.5, -1.0]))
    if step is _two:
        work = (jnp.int32(1), jnp.int32(2))
    prepared = []

    def prepare(step):
        prepared.append(step)
        return step

    run = jax.jit(lambda f, n, w: run_steps(step, f, n, w, prepare))
    got = run(jnp.int32(first), jnp.int32(n), work)
    for mine, want in zip(got, _plain(step, first, n, work), strict=True):
        np.testing.assert_allclose(mine, want, rtol=1e-6)
    assert len(prepared) == {_two: 2, _nested: 3, _in_turn: 2, _by_work: 1}[step]


def test_choices_beside_each_other_do_not_multiply():
    def step(t, work):
        return [jax.lax.cond(t < 3, lambda v=v: v + t, lambda v=v: v * 2) for v in work]

    prepared = []
    work = [jnp.float32(i) for i in range(6)]
    got = run_steps(step, jnp.int32(0), jnp.int32(5), work, lambda s: prepared.append(s) or s)
    np.testing.assert_allclose(got, _plain(step, 0, 5, work))
    assert len(prepared) == 1


def test_numbers_of_steps_stay_int32_where_others_are_wide(x64):
    got = run_steps(_two, jnp.int32(1), jnp.int32(4), (jnp.int32(1), jnp.int32(2)), lambda s: s)
    assert got == _plain(_two, 1, 4, (jnp.int32(1), jnp.int32(2)))
    assert [x.dtype for x in got] == [jnp.int32] * 2


def test_what_no_step_changes_is_computed_before_the_loop():
    numbers = jnp.float32(np.random.default_rng(0).permutation(100))

    def step(t, work):
        n = jnp.sort(numbers)[4].astype(jnp.int32)
        return jax.lax.cond(t < n, lambda: work + 1, lambda: work * 2)

    run = jax.make_jaxpr(lambda n, w: run_steps(step, jnp.int32(0), n, w, lambda s: s))
    outer = next(e for e in run(jnp.int32(9), 1.0).eqns if e.primitive.name == "while")
    inner = [e for e in outer.params["body_jaxpr"].eqns if e.primitive.name == "while"]
    conditions = [str(e.params["cond_jaxpr"]) for e in (outer, *inner)]
    assert len(inner) == 2 and "sort" in str(run(jnp.int32(9), 1.0))
    assert not any("sort" in condition for condition in conditions)
    assert run_steps(step, jnp.int32(0), jnp.int32(6), jnp.float32(1), lambda s: s) == 20


def test_under_vmap_each_has_its_own_numbers():
    work = (jnp.ones((3, 2)), jnp.full((3, 2), 0.5))
    first, n = jnp.int32([0, 2, 5]), jnp.int32([7, 4, 0])
    run = jax.vmap(lambda f, n, w: run_steps(_nested, f, n, w, lambda s: s))
    got = run(first, n, work)
    for i in range(3):
        want = _plain(_nested, int(first[i]), int(n[i]), jax.tree.map(lambda v, i=i: v[i], work))
        np.testing.assert_allclose(got[0][i], want[0], rtol=1e-5)
        np.testing.assert_allclose(got[1][i], want[1], rtol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="reads what the CPU compiler makes")
@pytest.mark.parametrize("unswitched", [False, True])
def test_nothing_that_a_branch_hands_through_is_copied_at_each_step(unswitched):
    def step(t, work):
        measured, model = work

        def measure():
            return measured + jnp.sum(model @ jnp.full((64, 1), 0.1)), model

        def train():
            return measured, model - 0.1 * model * t

        return jax.lax.cond(t < 3, measure, train)

    def run(work):
        if unswitched:
            return run_steps(step, jnp.int32(0), jnp.int32(9), work, lambda s: s)
        return jax.lax.fori_loop(0, 9, step, work)

    compiled = jax.jit(run).lower((jnp.float32(0), jnp.ones((64, 64)))).compile().as_text()
    bodies = re.findall(r"body=%?([\w.\-]+)", compiled)
    texts = [compiled.split(f"%{b} (", 1)[1].split("\n}\n", 1)[0] for b in bodies]
    copies = sum(len(re.findall(r"= f32\[64,64\]\S* copy\(", text)) for text in texts)
    assert (copies == 0) == unswitched
