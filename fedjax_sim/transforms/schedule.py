"""Learning rates that follow the round instead of the local step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.core.types import Array, PyTree
from fedjax_sim.transforms.pure import transformation


def scale_by_round(
    schedule: Callable[[Array], Array | float],
) -> optax.GradientTransformationExtraArgs:
    """Multiply updates by `schedule(round)`; rounds count from 0.

    A client optimizer is made anew each round, so an optax schedule inside it follows the
    local step; put this behind it to follow the round: `optax.chain(optax.sgd(0.1),
    scale_by_round(optax.exponential_decay(1.0, 10, 0.5)))`. Nothing compiles anew.
    """

    def update(
        updates: PyTree, state: Any, params: PyTree = None, *, round: Array, **extra: Any
    ) -> tuple[PyTree, Any]:
        del params, extra
        factor = schedule(round)
        return jax.tree.map(lambda u: u * jnp.asarray(factor, u.dtype), updates), state

    return transformation(update)


def warmup(peak: Array | float, rounds: int) -> Callable[[Array], Array]:
    """Linear from `peak / rounds` in round 0 to `peak` in round `rounds - 1`, then constant.

    The peak may be traced (optax's own warm-up raises there).
    """

    def at(index: Array) -> Array:
        return peak * jnp.minimum(jnp.asarray(index + 1, float) / rounds, 1.0)

    return at
