"""Deadlines and over-selection: what is done about those who would keep a round waiting."""

from __future__ import annotations

import math

import jax.numpy as jnp

from fedjax_sim.core.checks import choice, integer, number
from fedjax_sim.core.types import Array
from fedjax_sim.systems.clock import Times, fitting_steps

LATE = ("absent", "partial")


def over_selected(cohort: int, extra: float) -> int:
    """How many are chosen so that `cohort` reports come sooner: `ceil(cohort (1 + extra))`.

    The round ends with the `cohort`-th report, and the others' work is lost. It also makes up for
    clients that drop out.

    Args:
      cohort: K, reports that a round waits for.
      extra: share of more, such as 0.3.

    Example:
      >>> over_selected(10, 0.3), over_selected(10, 0.0)
      (13, 10)

    Reference: Bonawitz et al., Towards Federated Learning at Scale: System Design, 2019,
      arXiv:1902.01046, section 9, which takes 0.3.
    """
    integer("cohort", cohort, least=1)
    number("over_select", extra, least=0)
    return math.ceil(round(cohort * (1.0 + extra), 9))


def check_deadline(deadline_s: float | None, late: str) -> float:
    """The deadline in virtual seconds, infinite where there is none; refuses what is none."""
    choice("late", late, LATE)
    if deadline_s is None or deadline_s == math.inf:
        return math.inf
    number("deadline_s", deadline_s, above=0)
    return float(deadline_s)


def steps_by(deadline_s: float, late: str, times: Times, steps: Array) -> tuple[Array, Array]:
    """Steps that members do under a deadline, and who does not even try to report.

    Args:
      deadline_s: virtual seconds, may be infinite.
      late: `absent`: everybody does all steps, and who is late has worked for nothing (FedAvg's
        treatment). `partial`: a client stops early enough to report in time, as FedProx allows;
        one that cannot finish a single step stays silent. A client is taken to know how fast
        its links are in this round.
      times: leaves `[K]`.
      steps: int32 `[K]`, wanted.

    Returns:
      int32 `[K]` steps done, and bool `[K]`, who stays silent.
    """
    nobody = jnp.zeros(steps.shape, bool)
    if late == "absent" or math.isinf(deadline_s):
        return steps, nobody
    fit = fitting_steps(times, steps, deadline_s)
    hopeless = (fit < 1) & (steps > 0)
    return jnp.where(hopeless, steps, fit), hopeless
