"""Equal-time local work: everybody works equally long, so that fast devices do more steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.systems.clock import expected_times, fitting_steps
from fedjax_sim.systems.cost import Load
from fedjax_sim.systems.fleet import Fleet

Work: TypeAlias = Callable[[Fleet, Load, Array], Array]
"""`(members [K], load, full int32 [K]) -> steps int32 [K]`: how much each member is asked for."""


def equal_time(fleet: Fleet, load: Load, *, share: float = 0.5) -> Work:
    """Ask of each member as many steps as fit into one time for all, at least one.

    The time is that in which `share` of the clients could do all of their work. Slower ones do
    fewer steps; faster ones are done with all their steps before. The algorithm's epochs (or
    steps) are therefore the most that anybody does, and updates differ in their number of steps:
    use FedNova's weights (`algorithms.fednova`), for a plain mean leans to the fast.

    Args:
      fleet: of all clients, leaves `[N]`.
      load: what the round asks.
      share: of clients that may do everything, in [0, 1].

    Returns:
      A function for `timed(work=...)`. It goes by devices' speeds and links' means, which a
      server can know before the round; the links' draws then make rounds a little longer or
      shorter.

    Reference: the rule is the semi-synchronous one of Stripelis et al., Semi-Synchronous
      Federated Learning, 2021, arXiv:2102.02849, where all work between two meetings; here
      nobody does more than the algorithm's own epochs.
    """
    number("equal_share", share, least=0, most=1)
    alone = expected_times(fleet, load).total(np.asarray(load.steps))
    seconds = float(np.quantile(np.asarray(alone, float), share))

    def steps(members: Fleet, of: Load, full: Array) -> Array:
        fit = fitting_steps(expected_times(members, of), full, seconds * (1.0 + 1e-6))
        return jnp.where(full > 0, jnp.maximum(fit, 1), 0)

    return steps
