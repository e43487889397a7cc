"""A sampler on a virtual clock: who takes part, how long it lasts, and whose reports count."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import keys, tree
from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Array, Cohort, Info, Member, PyTree
from fedjax_sim.sampling.deadline import check_deadline, steps_by
from fedjax_sim.sampling.equal_time import Work
from fedjax_sim.sampling.round_log import (
    DROPPED,
    LATE,
    RoundLog,
    Rows,
    empty_log,
    log_round,
    status_of,
)
from fedjax_sim.sampling.select import Select
from fedjax_sim.systems.availability import Availability, always
from fedjax_sim.systems.clock import draw_times, round_end
from fedjax_sim.systems.cost import Load, of_members, share_of, steps_of
from fedjax_sim.systems.fleet import Fleet
from fedjax_sim.systems.luck import luck, settle


class System(NamedTuple):
    """What a round meets with.

    Attributes:
      fleet: devices and links, leaves `[N]`.
      load: what a round asks of them.
      availability: who is online.
      dropout: chance that a member never reports.
      idle_s: seconds that a round without members takes where there is no deadline.
    """

    fleet: Fleet
    load: Load
    availability: Availability = always()
    dropout: float = 0.0
    idle_s: float = 60.0


class TimedState(NamedTuple):
    """The clock between two rounds.

    Attributes:
      fleet: leaves `[N]`.
      load: `steps` `[N]`.
      available: the state of availability.
      select: the state of the choice.
      time_s: virtual time, from 0.
      carry_s: what rounding took from it so far (Kahan's sum).
      round_s: of the last round; infinite before the first.
      chosen: int32, members of the last round that were there at its start.
      late: int32, members of the last round whose reports came too late.
      dropped: int32, members of it that dropped out.
      seconds: `[K]`, how long each member of it would have taken.
      log: the last rounds, for the picture.
    """

    fleet: Fleet
    load: Load
    available: PyTree
    select: PyTree
    time_s: Array
    carry_s: Array
    round_s: Array
    chosen: Array
    late: Array
    dropped: Array
    seconds: Array
    log: RoundLog


def timed(
    select: Select,
    system: System,
    *,
    deadline_s: float | None = None,
    late: str = "absent",
    wanted: int | None = None,
    work: Work | None = None,
) -> Sampler:
    """Put a choice of clients on the virtual clock.

    A member takes `down_bytes / down_speed + steps flops_per_step / flops_per_s + up_bytes /
    up_speed` seconds. The round is synchronous: it lasts until the last report is there, or as
    `systems.clock.round_end` says under a deadline or over-selection. Members whose reports do
    not count are absent, and are not trained.

    Args:
      select: who is chosen.
      system: the fleet, and what happens to it.
      deadline_s: virtual seconds after which a round ends; None: it waits for all.
      late: what those do who cannot make it: see `deadline.steps_by`.
      wanted: reports after which a round ends; None: all. Less than `select.size` is
        over-selection.
      work: how many steps each member is asked for, such as `equal_time`; None: all.

    Returns:
      A `Sampler` that tells `virtual_time_s`, `round_seconds`, `clients_chosen`,
      `clients_late` and `clients_dropped`, and what `select` tells.

    Cost: O(K log K) besides the choice and the availability; 8 N numbers of state.
    """
    limit = check_deadline(deadline_s, late)
    number("dropout", system.dropout, least=0, most=1)
    number("idle_s", system.idle_s, above=0)
    count = select.size if wanted is None else integer("wanted", wanted, least=1, most=select.size)

    def init(n_clients: int) -> TimedState:
        if len(system.fleet.flops_per_s) != n_clients:
            remedy = f"must be of {n_clients} clients"
            raise InputError("fleet", len(system.fleet.flops_per_s), remedy)
        fleet, load = _arrays(system)
        zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
        begun = TimedState(
            fleet=fleet,
            load=load,
            available=system.availability.init(fleet),
            select=select.init(fleet, load),
            time_s=zero,
            carry_s=zero,
            round_s=jnp.full((), jnp.inf),
            chosen=none,
            late=none,
            dropped=none,
            seconds=jnp.zeros(select.size),
            log=empty_log(select.size, limit),
        )
        # Each leaf its own buffer, so that the state can be donated.
        return jax.tree.map(lambda v: jnp.array(v, copy=True), begun)

    def sample(key: Array, state: TimedState, round_index: Array) -> tuple[TimedState, Cohort]:
        draws = _draws(key)
        available, online = state.available, None
        if not system.availability.constant:
            available, online = system.availability.draw(
                draws.online, state.fleet, available, state.time_s, state.round_s
            )
        selected, member = select.pick(key, state.select, round_index, online)
        member = Member(*settle(*member))
        rows, full = tree.take(state.fleet, member.id), state.load.steps[member.id]
        asked = of_members(state.load, member.id)
        times = draw_times(draws.links, member.id, rows, asked)
        steps = steps_of(full, member.work)
        steps = steps if work is None else work(rows, asked, steps)
        steps, silent = steps_by(limit, late, times, steps)
        gone = member.present & _dropped(draws.drop, member.id, system.dropout)
        seconds = times.total(steps)
        end = round_end(
            seconds,
            member.present,
            silent | gone,
            wanted=count,
            deadline_s=limit,
            idle_s=system.idle_s,
        )
        status = status_of(member.present, end.arrived, gone)
        group = jnp.zeros_like(member.id)
        if select.group is not None:
            group = select.group(selected, member.id)
        cohort = member._replace(present=end.arrived, work=share_of(steps, full))
        time_s, carry_s = _add(state.time_s, state.carry_s, end.seconds)
        state = state._replace(
            available=available,
            select=selected,
            time_s=time_s,
            carry_s=carry_s,
            round_s=end.seconds,
            chosen=_count(member.present),
            late=_count(status == LATE),
            dropped=_count(status == DROPPED),
            seconds=seconds,
            log=log_round(
                state.log,
                round_index,
                end.seconds,
                Rows(member.id, status, group, times.down_s, steps * times.step_s, times.up_s),
            ),
        )
        return state, Cohort(round_index, cohort)

    def observe(state: TimedState, cohort: Cohort, info: Info) -> TimedState:
        return state._replace(select=select.observe(state.select, cohort, info, state.seconds))

    def tell(state: TimedState) -> dict[str, Array]:
        own = {
            "virtual_time_s": state.time_s,
            "round_seconds": state.round_s,
            "clients_chosen": state.chosen,
            "clients_late": state.late,
            "clients_dropped": state.dropped,
        }
        return own | ({} if select.tell is None else select.tell(state.select))

    return Sampler(select.size, init, sample, observe, tell)


class _Draws(NamedTuple):
    """Keys of one round."""

    online: Array
    links: Array
    drop: Array


def _draws(key: Array) -> _Draws:
    own = keys.for_purpose(key, keys.Purpose.SYSTEM)
    return _Draws(*(keys.fold_in(own, i) for i in range(3)))


def _arrays(system: System) -> tuple[Fleet, Load]:
    """Fleet and load as arrays of the default float."""
    fleet = jax.tree.map(lambda v: jnp.asarray(v, float), system.fleet)
    load = jax.tree.map(lambda v: jnp.asarray(v, float), system.load)
    return fleet, load._replace(steps=jnp.asarray(system.load.steps, jnp.int32))


def _dropped(key: Array, ids: Array, chance: float) -> Array:
    """Who drops out in this round, by round and id."""
    return luck(key, ids)[0] < chance


def _count(which: Array) -> Array:
    return jnp.sum(which, dtype=jnp.int32)


def _add(total: Array, carry: Array, more: Array) -> tuple[Array, Array]:
    """Kahan's sum: seconds are not lost on a clock that has run for months."""
    corrected = more - carry
    new = total + corrected
    return new, (new - total) - corrected
