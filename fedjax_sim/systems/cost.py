"""What a round costs a client: operations of a local step, bytes of the messages, local steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from fedjax_sim.core.branches import always, conditional
from fedjax_sim.core.types import Array

_ROUNDING = 1e-6  # what `ceil(full x work - 1e-6)` of the client updates leaves out
_LOOPS = ("scan", "while")


class Load(NamedTuple):
    """What one round asks of clients.

    Attributes:
      flops_per_step: operations of one local step, a number or `[N]`, each client's mean.
      down_bytes: of what the server sends to one client.
      up_bytes: of one client's report.
      steps: `[N]` whole numbers, local steps of each client's full work.
    """

    flops_per_step: Any
    down_bytes: Any
    up_bytes: Any
    steps: Any


def of_members(load: Load, ids: Array) -> Load:
    """The load of the clients `ids` int32 `[K]`: their steps, and their operations if they differ.

    Args:
      load: of all clients.
      ids: int32 `[K]`.
    """
    flops = load.flops_per_step
    flops = flops if jnp.ndim(flops) == 0 else flops[ids]
    return load._replace(flops_per_step=flops, steps=load.steps[ids])


def step_flops(step: ClosedJaxpr, count: Callable[[Any], float]) -> float:
    """Floating-point operations of a traced local step.

    XLA's own count of the lowered program (`lower().cost_analysis()`; nothing is compiled).
    XLA counts the body of a loop once whatever its length, and some back ends give no count:
    there `count` of the jaxpr decides.

    Args:
      step: one local step of one client, traced.
      count: operations of a jaxpr.

    Returns:
      Operations, at least 1.

    Cost: lowers the step once, some 50 ms.
    """
    flops = 0.0 if _has_loop(step.jaxpr) else _lowered_flops(step)
    return max(flops if flops > 0 else float(count(step.jaxpr)), 1.0)


def branch_flops(step: ClosedJaxpr, count: Callable[[Any], float]) -> tuple[float, ...]:
    """Operations of a local step for each branch of its conditional, as `step_flops`.

    A client that measures and then trains runs one of two branches in a step, while XLA's count
    of the step adds both. So each is counted alone, in the step's place.

    Args:
      step: one local step of one client, traced.
      count: operations of a jaxpr.

    Returns:
      `[branches]` operations; one number where the step itself has no conditional.

    Cost: lowers the step once for each branch.
    """
    found = conditional(step)
    if found is None:
        return (step_flops(step, count),)
    every = range(len(found.params["branches"]))
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in step.in_avals]

    alone = [jax.make_jaxpr(always(step, found, i))(*shapes) for i in every]
    return tuple(step_flops(program, count) for program in alone)


def _lowered_flops(step: ClosedJaxpr) -> float:
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in step.in_avals]
    found: Any = jax.jit(jaxpr_as_fun(step)).lower(*shapes).cost_analysis()
    first = found[0] if isinstance(found, (list, tuple)) and found else found
    return float(first.get("flops", 0.0)) if isinstance(first, dict) else 0.0


def _has_loop(jaxpr: Any) -> bool:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _LOOPS:
            return True
        inner = [v for p in eqn.params.values() for v in (p if isinstance(p, tuple) else (p,))]
        inner = [getattr(v, "jaxpr", v) for v in inner]
        if any(_has_loop(v) for v in inner if hasattr(v, "eqns")):
            return True
    return False


def steps_of(full: Array, work: Array) -> Array:
    """Local steps that a share of the full work comes to: `ceil(full x work)`, as clients do it.

    Args:
      full: int32 `[K]`, steps of all work.
      work: float `[K]` in (0, 1].
    """
    return jnp.ceil(full * work - _ROUNDING).astype(jnp.int32)


def share_of(steps: Array, full: Array) -> Array:
    """The share of work whose steps are exactly `steps`; the inverse of `steps_of`.

    Half a step less than asked for, so that no rounding of the product adds or loses one.

    Args:
      steps: int32 `[K]`, at least 1.
      full: int32 `[K]`, steps of all work.

    Returns:
      float `[K]` in (0, 1].
    """
    share = (steps - 0.5) / jnp.maximum(full, 1)
    return jnp.where(steps >= full, 1.0, jnp.clip(share, 1e-9, 1.0))
