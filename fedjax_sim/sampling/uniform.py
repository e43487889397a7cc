"""Uniform cohorts, and stragglers on top of any sampler."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_sim.core import keys
from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Array, Cohort, Info, Member, PyTree
from fedjax_sim.data.batching import shuffled


def uniform(cohort: int, n_clients: int) -> Sampler:
    """`cohort` distinct clients out of `n_clients`, uniformly, anew each round.

    Cost: O(K) for any N: the first K places of a keyed permutation, no sort.
    """
    integer("cohort", cohort, least=1)
    if cohort > n_clients:
        raise InputError("cohort", cohort, f"must be at most the population: {n_clients}")

    def sample(key: Array, state: PyTree, round_index: Array) -> tuple[PyTree, Cohort]:
        if cohort == n_clients:
            ids = jnp.arange(cohort, dtype=jnp.int32)
        else:
            place = jnp.arange(cohort, dtype=jnp.int32)
            ids = shuffled(keys.words(key), jnp.uint32(0), place, jnp.uint32(n_clients))
        member = Member(ids, jnp.ones(cohort, bool), jnp.zeros_like(ids), jnp.ones(cohort))
        return state, Cohort(round_index, member)

    def observe(state: PyTree, cohort: Cohort, info: Info) -> PyTree:
        del cohort, info
        return state

    return Sampler(cohort, lambda n: (), sample, observe)


def with_stragglers(
    sampler: Sampler, fraction: float, *, drop: bool = False, least: float = 0.0
) -> Sampler:
    """Let a random share of every cohort do only part of its steps.

    Args:
      sampler: chooses the cohort.
      fraction: chance in [0, 1] that a member is a straggler.
      drop: stragglers are absent (FedAvg's treatment) instead of partial (FedProx's).
      least: a straggler's share of work is uniform in (least, 1].
    """
    number("stragglers", fraction, least=0, most=1)
    number("stragglers.least", least, least=0, below=1)

    def sample(key: Array, state: PyTree, round_index: Array) -> tuple[PyTree, Cohort]:
        state, cohort = sampler.sample(key, state, round_index)
        who, how = jax.random.split(keys.for_purpose(key, keys.Purpose.STRAGGLE))
        member = cohort.members
        slow = jax.random.uniform(who, (sampler.size,)) < fraction
        share = 1.0 - jax.random.uniform(how, (sampler.size,)) * (1.0 - least)
        if drop:
            member = member._replace(present=member.present & ~slow)
        else:
            member = member._replace(work=jnp.where(slow, share, member.work))
        return state, cohort._replace(members=member)

    return sampler._replace(sample=sample)
