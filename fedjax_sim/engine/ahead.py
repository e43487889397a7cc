"""Who takes part in the rounds to come, asked before they are run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Array, PyTree
from fedjax_sim.engine.simulate import draw_cohort

NONE = -1


def make_ahead(sampler: Sampler, chunk: int) -> Callable[..., tuple[PyTree, Array]]:
    """A function that draws the cohorts of up to `chunk` rounds and runs none of them.

    Args:
      sampler: one that `foretells`, or `chunk` is 1.
      chunk: rows of the answer (static).

    Returns:
      `(key, sampler_state, first, rounds) -> (sampler_state, ids int32 [chunk, K])`: `first`
      counts from 0; rounds beyond `rounds` are `NONE`. Absent members are named too: whether
      one is present may hang on a time that another program rounds otherwise.
    """

    def ahead(key: Array, state: PyTree, first: Array, rounds: Array) -> tuple[PyTree, Array]:
        def one(i: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            state, ids = carry
            state, cohort = draw_cohort(sampler, key, state, first + i)
            return tree.strong(state), ids.at[i].set(cohort.members.id.astype(jnp.int32))

        nobody = jnp.full((chunk, sampler.size), NONE, jnp.int32)
        rounds = jnp.minimum(jnp.asarray(rounds, jnp.int32), chunk)
        return jax.lax.fori_loop(0, rounds, one, (tree.strong(state), nobody))

    return ahead


class _LookedError(Exception):
    """A sampler asked for a round's results."""


class _Sealed:
    def __getattr__(self, name: str) -> Any:
        raise _LookedError(name)


def foretells(sampler: Sampler, key: Array, n_clients: int) -> bool:
    """Whether no cohort depends on the results of a round: `observe` hands its state back.

    Args:
      sampler: is traced, not run.
      key: any.
      n_clients: N.
    """
    same: list[bool] = []

    def trial() -> None:
        state, cohort = draw_cohort(sampler, key, sampler.init(n_clients), jnp.int32(0))
        after = sampler.observe(state, cohort, _Sealed())
        pairs = zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True)
        same.append(all(a is b for a, b in pairs))

    try:
        jax.eval_shape(trial)
    except _LookedError:
        return False
    return same[0]
