"""Optax transformations that correct a client's gradient; the engine hands them the anchor.

Extra arguments that `clients.sgd.local` passes to every client optimizer: `anchor` (params
received from the server), `round` and `step` (int32 scalars), `value` (the batch's loss),
and whatever the client keeps in `LocalWork.extra`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from fedjax_sim.core import tree
from fedjax_sim.core.types import Array, PyTree
from fedjax_sim.transforms.pure import transformation


def add_proximal(mu: Array | float) -> optax.GradientTransformationExtraArgs:
    """Add the gradient of `mu/2 |params - anchor|^2`: `g + mu (params - anchor)`.

    Args:
      mu: strength, at least 0.

    Reference: Li et al., Federated Optimization in Heterogeneous Networks, 2018,
      arXiv:1812.06127, equation 2.
    """

    def update(
        grads: PyTree, state: Any, params: PyTree = None, *, anchor: PyTree, **extra: Any
    ) -> tuple[PyTree, Any]:
        del extra
        return jax.tree.map(lambda g, p, a: g + mu * (p - a), grads, params, anchor), state

    return transformation(update)


def add_correction() -> optax.GradientTransformationExtraArgs:
    """Add the client's fixed correction: `g + correction` (control variates)."""

    def update(
        grads: PyTree, state: Any, params: PyTree = None, *, correction: PyTree, **extra: Any
    ) -> tuple[PyTree, Any]:
        del params, extra
        return tree.add(grads, correction), state

    return transformation(update)


class SumState(NamedTuple):
    """Running sum of what passed through; shaped like params."""

    total: PyTree


def remember_sum() -> optax.GradientTransformationExtraArgs:
    """Pass gradients on unchanged and keep their sum."""

    def update(
        grads: PyTree, state: SumState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, SumState]:
        del params, extra
        return grads, SumState(tree.add(state.total, grads))

    return transformation(update, lambda p: SumState(tree.zeros(p)))
