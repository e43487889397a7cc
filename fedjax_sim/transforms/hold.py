"""Optimizers whose statistics are given from elsewhere and stay as they are."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.core.types import PyTree
from fedjax_sim.transforms.pure import transformation


def hold_state(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """Each step is the optimizer's from the same state: momentum and moments do not move.

    Args:
      optimizer: any optax transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> held = hold_state(optax.sgd(1.0, momentum=0.5))
      >>> state = held.init(jnp.zeros(()))
      >>> _, state = held.update(jnp.ones(()), state)
      >>> float(held.update(jnp.ones(()), state)[0])
      -1.0
    """
    inner = optax.with_extra_args_support(optimizer)

    def update(
        grads: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        return inner.update(grads, state, params, **extra)[0], state

    return transformation(update, inner.init)
