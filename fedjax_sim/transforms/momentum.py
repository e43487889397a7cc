"""Momentum that a client is handed, and the length of the way that its steps went."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.core.types import Array, PyTree
from fedjax_sim.transforms.pure import transformation


def mix_momentum(alpha: Array | float) -> optax.GradientTransformationExtraArgs:
    """`alpha g + (1 - alpha) momentum`, the momentum being an extra argument shaped like params.

    Args:
      alpha: share of the gradient, in (0, 1].

    Reference: Xu et al., FedCM: Federated Learning with Client-level Momentum, 2021,
      arXiv:2106.10874, algorithm 2.
    """

    def update(
        grads: PyTree, state: Any, params: PyTree = None, *, momentum: PyTree, **extra: Any
    ) -> tuple[PyTree, Any]:
        del params, extra

        def mix(g: Array, m: Array) -> Array:
            share = jnp.asarray(alpha, g.dtype)
            return share * g + (1 - share) * m

        return jax.tree.map(mix, grads, momentum), state

    return transformation(update)


class Travel(NamedTuple):
    """The state of an optimizer, and how many times its input it has gone: `sum_t eta_t`."""

    inner: Any
    length: Array


def measure_travel(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """The optimizer itself, which also keeps the sum of the rates of its steps.

    The rate of a step is read off it: `eta = -<u, v> / |v|^2` for input v and output u, which is
    SGD's learning rate under any schedule, and for others the length of their step along v.

    Args:
      optimizer: any optax transformation.

    Cost: two sums over P a step, and no memory.
    """
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> Travel:
        return Travel(inner.init(params), jnp.zeros(()))

    def update(
        grads: PyTree, state: Travel, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, Travel]:
        updates, kept = inner.update(grads, state.inner, params, **extra)
        rate = -along(updates, grads)
        return updates, Travel(kept, state.length + rate.astype(state.length.dtype))

    return transformation(update, init)


def along(moved: PyTree, way: PyTree) -> Array:
    """`<moved, way> / |way|^2`: how many times `way` it is, a float scalar; 0 where `way` is 0."""
    square = _dot(way, way)
    return jnp.where(square > 0, _dot(moved, way) / jnp.where(square > 0, square, 1), 0)


def _dot(a: PyTree, b: PyTree) -> Array:
    """The inner product of two trees, summed in at least float32."""

    def one(x: Array, y: Array) -> Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.sum(x.astype(wide) * y.astype(wide))

    return sum(jax.tree.leaves(jax.tree.map(one, a, b)), start=jnp.zeros(()))
