"""The virtual clock: how long clients take, and when a synchronous round ends."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from fedjax_sim.core.types import Array
from fedjax_sim.systems.cost import Load
from fedjax_sim.systems.fleet import Fleet
from fedjax_sim.systems.luck import luck
from fedjax_sim.systems.networks import draw_speed


class Times(NamedTuple):
    """How long members take in one round, in seconds.

    Attributes:
      down_s: `[K]`, to receive.
      step_s: `[K]`, of one local step.
      up_s: `[K]`, to report.
    """

    down_s: Any
    step_s: Any
    up_s: Any

    def total(self, steps: Any) -> Any:
        """Seconds `[K]` from the start of the round to the arrival of the report."""
        return self.down_s + steps * self.step_s + self.up_s


class RoundEnd(NamedTuple):
    """How a round ended.

    Attributes:
      seconds: how long it took.
      arrived: bool `[K]`, whose reports counted.
    """

    seconds: Array
    arrived: Array


def draw_times(key: Array, ids: Array, members: Fleet, load: Load) -> Times:
    """How long members take, their links drawn for this round.

    Args:
      key: of the round.
      ids: int32 `[K]`; a client's links depend on round and id, not on its place in the cohort.
      members: the fleet's rows of these clients, leaves `[K]`.
      load: what the round asks.
    """
    of_down, of_up = luck(key, ids)
    down = draw_speed(of_down, members.down_mean, members.down_sigma)
    up = draw_speed(of_up, members.up_mean, members.up_sigma)
    step_s = load.flops_per_step / members.flops_per_s
    return Times(load.down_bytes / down, step_s, load.up_bytes / up)


def expected_times(fleet: Fleet, load: Load) -> Times:
    """How long clients take at their links' mean speeds: what a server can know beforehand.

    Args:
      fleet: leaves `[N]`, NumPy or jax.
      load: what the round asks.
    """
    return Times(
        load.down_bytes / fleet.down_mean,
        load.flops_per_step / fleet.flops_per_s,
        load.up_bytes / fleet.up_mean,
    )


def fitting_steps(times: Times, full: Any, seconds: Any) -> Array:
    """Most local steps of each client that leave time to report within `seconds`.

    Args:
      times: leaves `[K]`.
      full: int32 `[K]`, steps of all work.
      seconds: of the round.

    Returns:
      int32 `[K]` in 0 .. full; 0 where not even one step fits.
    """
    left = seconds - times.down_s - times.up_s
    most = jnp.clip(jnp.floor(left / times.step_s), 0, full)
    # Rounding may let one step too many in, by whose report the client would be late.
    over = (times.total(most) > seconds) & (most > 0)
    return jnp.where(over, most - 1, most).astype(jnp.int32)


def round_end(
    seconds: Array,
    here: Array,
    silent: Array,
    *,
    wanted: int,
    deadline_s: float,
    idle_s: float,
) -> RoundEnd:
    """When a synchronous round ends, and whose reports it has by then.

    It ends at the first of: the `wanted`-th report; the deadline; the moment at which nobody is
    waited for any more. A client that never reports is given up at the deadline, and without one
    when its report is overdue. Reports of the same moment count in the order of the cohort.

    Args:
      seconds: `[K]`, when each report would arrive.
      here: bool `[K]`, who takes part.
      silent: bool `[K]`, who of them never reports.
      wanted: reports after which the round ends (static).
      deadline_s: seconds after which it ends in any case, may be infinite (static).
      idle_s: seconds that a round without members takes where there is no deadline, so that time
        goes on and somebody may come (static).

    Cost: O(K log K).
    """
    reports = here & ~silent
    arrival = jnp.where(reports, seconds, jnp.inf)
    order = jnp.argsort(arrival, stable=True)
    position = jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0], dtype=order.dtype))
    last_wanted = arrival[order[min(wanted, order.shape[0]) - 1]]
    patience = deadline_s if deadline_s < float("inf") else seconds
    given_up = jnp.where(here, jnp.where(silent, patience, seconds), 0.0)
    end = jnp.minimum(jnp.minimum(last_wanted, jnp.max(given_up)), deadline_s)
    nothing = deadline_s if deadline_s < float("inf") else idle_s
    end = jnp.where(jnp.any(here), end, nothing)
    arrived = reports & (seconds <= end) & (position < wanted)
    return RoundEnd(end, arrived)
