"""Choosing a cohort when it is known who is online and how long clients take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import keys
from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Array, Cohort, Info, Member, PyTree
from fedjax_sim.data.batching import shuffled
from fedjax_sim.systems.cost import Load
from fedjax_sim.systems.fleet import Fleet
from fedjax_sim.systems.luck import luck_of_all


class Select(NamedTuple):
    """A sampler that is told who is online, and afterwards how long its members took.

    `timed` makes a `Sampler` of it.

    Attributes:
      size: K, the cohort rows it always returns (a static int).
      init: `(Fleet, Load) -> state`.
      pick: `(key, state, round, online bool[N] | None) -> (state, Member [K])`; `online` is None
        where everybody always is.
      observe: `(state, Cohort, Info, seconds [K]) -> state`; `seconds` are each member's own, of
        which a server knows those that are present.
      group: `(state, ids) -> int32 [K]`, such as tiers, for records and pictures, or None.
      tell: `(state) -> {name: scalar}` for the round's records, or None.
    """

    size: int
    init: Callable[[Fleet, Load], PyTree]
    pick: Callable[..., tuple[PyTree, Member]]
    observe: Callable[..., PyTree]
    group: Callable[[PyTree, Array], Array] | None = None
    tell: Callable[[PyTree], dict[str, Array]] | None = None


def among(key: Array, allowed: Array, k: int) -> Member:
    """`k` distinct clients, uniformly out of those allowed; fewer allowed leave rows absent.

    Args:
      key: of the draw.
      allowed: bool `[N]`.
      k: at most N.

    Returns:
      `Member` with leaves `[k]`, full work; ids are distinct, of absent rows too.

    Cost: O(N) draws and a partial sort.
    """
    luck = luck_of_all(key, allowed.shape[0])
    _, ids = jax.lax.top_k(jnp.where(allowed, luck, luck - 1.0), k)
    return members(ids.astype(jnp.int32), allowed[ids])


def members(ids: Array, present: Array) -> Member:
    """Members with full work and no lag."""
    return Member(ids, present, jnp.zeros_like(ids), jnp.ones(ids.shape))


def uniform_online(cohort: int, n_clients: int) -> Select:
    """`cohort` distinct clients, uniformly out of those online.

    Cost: O(K) where everybody always is online, else O(N).
    """
    _check(cohort, n_clients)

    def pick(key: Array, state: PyTree, round_index: Array, online: Array | None) -> Any:
        del round_index
        if online is not None:
            return state, among(key, online, cohort)
        place = jnp.arange(cohort, dtype=jnp.int32)
        ids = shuffled(keys.words(key), jnp.uint32(0), place, jnp.uint32(n_clients))
        return state, members(ids, jnp.ones(cohort, bool))

    def observe(state: PyTree, cohort: Cohort, info: Info, seconds: Array) -> PyTree:
        del cohort, info, seconds
        return state

    return Select(cohort, lambda fleet, load: (), pick, observe)


def wrapped(sampler: Sampler, n_clients: int) -> Select:
    """Any sampler, whose choice knows nothing of the system: who is offline is absent."""

    def pick(key: Array, state: PyTree, round_index: Array, online: Array | None) -> Any:
        state, cohort = sampler.sample(key, state, round_index)
        member: Member = cohort.members
        if online is not None:
            member = member._replace(present=member.present & online[member.id])
        return state, member

    def observe(state: PyTree, cohort: Cohort, info: Info, seconds: Array) -> PyTree:
        del seconds
        return sampler.observe(state, cohort, info)

    return Select(
        sampler.size,
        lambda fleet, load: sampler.init(n_clients),
        pick,
        observe,
        tell=sampler.tell,
    )


def _check(cohort: int, n_clients: int) -> None:
    integer("cohort", cohort, least=1)
    if cohort > n_clients:
        raise InputError("cohort", cohort, f"must be at most the population: {n_clients}")
