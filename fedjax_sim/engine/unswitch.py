"""Many local steps of one lane, with what they choose by their number chosen out of the loop."""

from __future__ import annotations

from collections.abc import Callable

import jax

from fedjax_sim.core.branches import always, branch_by, conditional
from fedjax_sim.core.types import Array, PyTree

Step = Callable[[Array, PyTree], PyTree]
"""`(t, work) -> work`."""
Alive = Callable[[Array], Array]
"""`t -> bool`, whether step t is one to run now."""
_At = tuple[Array, PyTree]


def run_steps(
    step: Step, first: Array, n: Array, work: PyTree, prepare: Callable[[Step], Step]
) -> PyTree:
    """`work` after steps t = first .. first + n - 1.

    A client that measures and then trains chooses by `lax.cond` on t. In a loop the compiler
    copies at every step all that a branch may hand through untouched, the model among it. So where
    t is compared with what the work does not change, each branch gets a loop of its own, and so do
    the branches of a conditional inside a branch; else this is one loop over `step`. A choice by
    the client alone (its width) or by a draw stays in the step: there is one such conditional in
    the forward pass and one in the backward pass, and their branches would multiply, as would
    those of several choices beside each other.

    Args:
      step: pure.
      first: int32.
      n: int32, at least 0.
      work: what is carried.
      prepare: applied to what is looped over (`lowering.lower`), to each branch alone.

    Cost: one more trace of the step, and of each branch where there are any.
    """
    branches = _branches(step, first, work)
    if branches is None:
        ready = prepare(step)
        return jax.lax.fori_loop(0, n, lambda i, w: ready(first + i, w), work)
    return _run(branches, lambda t: t < first + n, (first, work), prepare)[1]


def _run(
    branches: list[tuple[Step, Alive]], alive: Alive, at: _At, prepare: Callable[[Step], Step]
) -> _At:
    """From step `at[0]` on, while `alive`: runs of steps that take the same branch."""

    def turn(at: _At) -> _At:
        for step, taken in branches:
            at = _same(step, lambda t, taken=taken: alive(t) & taken(t), at, prepare)
        return at

    return jax.lax.while_loop(lambda at: alive(at[0]), turn, at)


def _same(step: Step, alive: Alive, at: _At, prepare: Callable[[Step], Step]) -> _At:
    inner = _branches(step, *at)
    if inner is not None:
        return _run(inner, alive, at, prepare)
    ready = prepare(step)
    return jax.lax.while_loop(
        lambda at: alive(at[0]), lambda at: (at[0] + 1, ready(at[0], at[1])), at
    )


def _branches(step: Step, t: Array, work: PyTree) -> list[tuple[Step, Alive]] | None:
    """For each branch of the step's conditional on t: the step that takes it, and when it does."""
    program, out = jax.make_jaxpr(step, return_shape=True)(t, work)
    chosen = conditional(program, by=0)
    if chosen is None:
        return None
    which = branch_by(program, chosen, 0)

    def one(branch: int) -> tuple[Step, Alive]:
        run = always(program, chosen, branch)

        def taken(t: Array, work: PyTree) -> PyTree:
            return jax.tree.unflatten(jax.tree.structure(out), run(t, *jax.tree.leaves(work)))

        return taken, lambda t: which(t) == branch

    return [one(i) for i in range(len(chosen.params["branches"]))]
