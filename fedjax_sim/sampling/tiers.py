"""Tiers by speed: everybody in a round is about equally fast, so that nobody waits (TiFL)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core import keys
from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.core.types import Array, Cohort, Info, Member
from fedjax_sim.sampling.select import Select, among
from fedjax_sim.systems.clock import expected_times
from fedjax_sim.systems.cost import Load
from fedjax_sim.systems.fleet import Fleet
from fedjax_sim.systems.luck import luck_of_all


class Adaptive(NamedTuple):
    """How tiers are chosen by how well they are learned.

    Attributes:
      rounds: of the whole run, for the default credits.
      interval: rounds between two looks at the losses.
      credits: how often each tier, the fastest first, may be chosen; None: twice the rounds
        that would give every tier the same share of the run's virtual time.

    Until the losses say otherwise, tiers are drawn in proportion to their credits.
    """

    rounds: int
    interval: int = 10
    credits: Sequence[int] | None = None


class TierState(NamedTuple):
    """Tiers between two rounds.

    Attributes:
      latency: `[N]` seconds of a round's work, predicted, then as measured.
      tier: int32 `[N]`, 0 is the fastest.
      current: int32, the tier of the round.
      odds: `[M]` of the tiers, not normalised.
      credits: int32 `[M]`, how often a tier may still be chosen.
      loss: `[M]` training loss of each tier when it last trained; NaN before.
      before: `[M]` the losses at the last look.
    """

    latency: Array
    tier: Array
    current: Array
    odds: Array
    credits: Array
    loss: Array
    before: Array


def tiers(
    cohort: int,
    n_clients: int,
    *,
    count: int = 5,
    probabilities: Sequence[float] | None = None,
    adaptive: Adaptive | None = None,
    retier_every: int = 0,
    memory: float = 0.5,
) -> Select:
    """Choose a tier, and the cohort within it.

    Clients are ranked by how long a round's work takes them and cut into `count` tiers of equal
    numbers. Each round one tier is drawn, and from it `cohort` clients that are online.

    Args:
      cohort: K, at most the size of a tier.
      n_clients: N.
      count: M tiers.
      probabilities: `[M]` of the tiers, the fastest first; None: equal. TiFL's policies:
        `uniform`, `fast` (1, 0, 0, ...), `slow` (..., 0, 1) and between.
      adaptive: choose by training loss and credits instead: a tier's odds are its loss times
        the credits that it has left, the losses being looked at every `interval` rounds, if that
        of the tier just trained has not fallen since the look before (until then they count as
        equal). When all credits are spent, they count no more.
      retier_every: rounds between two cuts by latency as measured; 0: the tiers stay.
      memory: of the measured latency, in [0, 1): `latency <- memory latency + (1 - memory)
        seconds` of those that reported.

    Returns:
      A `Select` that tells `tier`.

    Raises:
      InputError: a cohort larger than a tier, or numbers that do not fit the tiers.

    Cost: O(N) draws a round; O(N log N) at a cut.

    Reference: Chai et al., TiFL: A Tier-based Federated Learning System, 2020, arXiv:2001.09249,
      section 4.2 and algorithm 2. Ours differs in that latency is predicted from the fleet at
      first (they profile a few rounds), tiers have equal numbers of clients (they cut a histogram
      of latencies), a tier's progress is its members' training loss when it last trained (they
      evaluate a test set for each tier in every round, which costs communication), odds are
      proportional to it (they leave the change open), and credits weigh as well as limit: where
      they only limit, the slow tiers spend theirs at once and the run begins as slowly as with
      equal odds.
    """
    count = integer("tiers", count, least=1, most=n_clients)
    integer("cohort", cohort, least=1)
    if cohort > n_clients // count:
        remedy = f"must be at most {n_clients // count}, the clients of one of {count} tiers"
        raise InputError("cohort", cohort, remedy)
    integer("retier_every", retier_every, least=0)
    number("memory", memory, least=0, below=1)
    odds = _odds(probabilities, count)
    if adaptive is not None:
        integer("tier_interval", adaptive.interval, least=1)

    def init(fleet: Fleet, load: Load) -> TierState:
        latency = expected_times(fleet, load).total(load.steps)
        tier = cut(latency, count)
        unknown = jnp.full((count,), jnp.nan)
        return TierState(
            latency=latency,
            tier=tier,
            current=jnp.zeros((), jnp.int32),
            odds=jnp.asarray(odds, float),
            credits=_credits(adaptive, latency, tier, count),
            loss=unknown,
            before=unknown,
        )

    def pick(key: Array, state: TierState, round_index: Array, online: Array | None) -> Any:
        if retier_every:
            due = (round_index > 0) & (round_index % retier_every == 0)
            tier = jax.lax.cond(due, lambda: cut(state.latency, count), lambda: state.tier)
            state = state._replace(tier=tier)
        own = keys.for_purpose(key, keys.Purpose.SAMPLE)
        which, who = keys.fold_in(own, 0), keys.fold_in(own, 1)
        affordable = state.odds * state.credits
        possible = jnp.where(jnp.sum(affordable) > 0, affordable, state.odds)
        current = _drawn(which, possible)
        credits = state.credits.at[current].add(-1 if adaptive is not None else 0)
        allowed = state.tier == current
        allowed = allowed if online is None else allowed & online
        member: Member = among(who, allowed, cohort)
        return state._replace(current=current, credits=jnp.maximum(credits, 0)), member

    def observe(state: TierState, cohort: Cohort, info: Info, seconds: Array) -> TierState:
        ids, present = cohort.members.id, cohort.members.present
        if retier_every:
            old = state.latency[ids]
            mixed = jnp.where(present, memory * old + (1 - memory) * seconds, old)
            state = state._replace(latency=state.latency.at[ids].set(mixed))
        return state if adaptive is None else _look(state, cohort, info, adaptive)

    return Select(
        cohort,
        init,
        pick,
        observe,
        group=lambda state, ids: state.tier[ids],
        tell=lambda state: {"tier": state.current},
    )


def cut(latency: Array, count: int) -> Array:
    """Tiers of equal numbers by rank of latency, int32 `[N]`, 0 the fastest; ties by id."""
    n = latency.shape[0]
    order = jnp.argsort(latency, stable=True)
    ends = jnp.asarray((np.arange(n) * count) // n, jnp.int32)
    return jnp.zeros(n, jnp.int32).at[order].set(ends)


def _look(state: TierState, cohort: Cohort, info: Info, adaptive: Adaptive) -> TierState:
    """Note the tier's loss, and every so often change the odds."""
    if "loss_sum" not in info.rows:
        remedy = "needs an algorithm whose clients report their training loss"
        raise InputError("systems.select", "adaptive_tiers", remedy)
    present = cohort.members.present
    total = jnp.sum(jnp.where(present, info.rows["loss_sum"], 0))
    examples = jnp.sum(jnp.where(present, info.rows["loss_count"], 0))
    mine = state.loss[state.current]
    new = jnp.where(examples > 0, total / jnp.maximum(examples, 1), mine)
    loss = state.loss.at[state.current].set(new.astype(state.loss.dtype))
    due = (cohort.round + 1) % adaptive.interval == 0
    known = jnp.isfinite(loss)
    worst = jnp.max(jnp.where(known, loss, 0.0))
    weights = jnp.maximum(jnp.where(known, loss, worst), 1e-6)
    earlier = state.before[state.current]
    stuck = ~jnp.isnan(earlier) & ~(new < earlier)
    odds = jnp.where(due & stuck, weights / jnp.sum(weights), state.odds)
    before = jnp.where(due, loss, state.before)
    return state._replace(loss=loss, odds=odds, before=before)


def _drawn(key: Array, odds: Array) -> Array:
    """An index by unnormalised odds `[M]`, int32; never one whose odds are 0."""
    sums = jnp.cumsum(odds)
    place = luck_of_all(key, 1)[0] * sums[-1]
    last = odds.shape[0] - 1 - jnp.argmax((odds > 0)[::-1])
    return jnp.minimum(jnp.sum(sums <= place), last).astype(jnp.int32)


def _odds(probabilities: Sequence[float] | None, count: int) -> np.ndarray:
    if probabilities is None:
        return np.full(count, 1.0 / count)
    odds = np.asarray(probabilities, float)
    if odds.shape != (count,):
        remedy = f"must be {count} numbers, one for each tier"
        raise InputError("tier_probabilities", list(probabilities), remedy)
    number("tier_probabilities", odds, least=0)
    if not odds.sum() > 0:
        raise InputError("tier_probabilities", list(probabilities), "must have a positive one")
    return odds / odds.sum()


def _credits(adaptive: Adaptive | None, latency: Array, tier: Array, count: int) -> Array:
    if adaptive is None:
        return jnp.ones((count,), jnp.int32)
    if adaptive.credits is not None:
        given = np.asarray(adaptive.credits)
        if given.shape != (count,) or given.dtype.kind not in "iu" or (given < 0).any():
            remedy = f"must be {count} whole numbers of at least 0, one for each tier"
            raise InputError("tier_credits", list(adaptive.credits), remedy)
        return jnp.asarray(given, jnp.int32)
    slowest = jax.ops.segment_max(latency, tier, count)
    rate = 1.0 / slowest
    credits = jnp.ceil(2.0 * adaptive.rounds * rate / jnp.sum(rate))
    return jnp.minimum(credits, 2.0**30).astype(jnp.int32)
