"""A sampler that draws from some of the clients only."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Array, Cohort, Info, PyTree


def among(sampler: Sampler, clients: Sequence[int] | np.ndarray, n_clients: int) -> Sampler:
    """Let `sampler` draw from a population that is a part of the whole.

    Args:
      sampler: for a population of `n` clients, such as `uniform(10, n)`.
      clients: int `[n]`, distinct, who these are.
      n_clients: N, the whole population.

    Returns:
      A `Sampler` of the whole population; its state holds both tables, `[n]` and `[N]`.

    Raises:
      InputError: clients that are repeated or out of range.
    """
    ids = np.asarray(clients, np.int32)
    if len(np.unique(ids)) < len(ids) or ids.size == 0 or ids.min() < 0 or ids.max() >= n_clients:
        remedy = f"must be distinct client ids, 0 to {n_clients - 1}"
        raise InputError("clients", f"{ids.size} ids", remedy)
    place = np.zeros(n_clients, np.int32)
    place[ids] = np.arange(len(ids), dtype=np.int32)

    def renamed(cohort: Cohort, table: Array) -> Cohort:
        member = cohort.members
        return cohort._replace(members=member._replace(id=table[member.id]))

    def init(population: int) -> PyTree:
        del population
        return sampler.init(len(ids)), jnp.asarray(ids), jnp.asarray(place)

    def sample(key: Array, state: PyTree, round_index: Array) -> tuple[PyTree, Cohort]:
        inner, table, back = state
        inner, cohort = sampler.sample(key, inner, round_index)
        return (inner, table, back), renamed(cohort, table)

    def observe(state: PyTree, cohort: Cohort, info: Info) -> PyTree:
        inner, table, back = state
        return sampler.observe(inner, renamed(cohort, back), info), table, back

    tell = sampler.tell
    told = None if tell is None else (lambda state: tell(state[0]))
    return sampler._replace(init=init, sample=sample, observe=observe, tell=told)
