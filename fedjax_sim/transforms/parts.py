"""An optax transformation that leaves a part of the model where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.core.types import PyTree
from fedjax_sim.transforms.pure import transformation


def hold(where: Callable[[PyTree], PyTree]) -> optax.GradientTransformationExtraArgs:
    """Zero the updates of the masked leaves; last in a chain, so that nothing moves them.

    Args:
      where: `params -> mask` (`core.parts.masked`).
    """

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, Any]:
        del params, extra
        still = lambda here, u: jnp.zeros_like(u) if here else u  # noqa: E731
        return jax.tree.map(still, where(updates), updates), state

    return transformation(update)
