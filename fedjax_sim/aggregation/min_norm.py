"""The rule of multiple-gradient descent for `collect`: a direction that hurts nobody."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_sim.aggregation.simplex import shortest_near
from fedjax_sim.core.types import Array, Model, PyTree


def min_norm(epsilon: Array | float) -> Callable[[PyTree, Array], PyTree]:
    """The shortest mixture of the updates' directions, near the weights.

    `d = sum l_i u_i / |u_i|`, l the minimiser of `|d|^2` over the simplex with
    `|l_i - w_i / sum w| <= epsilon` for every i. With epsilon = 1 no client's own direction
    makes an obtuse angle with d; with epsilon = 0 it is the weighted mean of directions.
    Model state is averaged with the weights.

    Args:
      epsilon: in [0, 1].

    Returns:
      A rule for `collect`, of updates that are `Model`s.

    Cost: `K^2 P` multiply-adds for the products, then at most 500 steps of `O(K^2)`.
    Reference: Hu et al., Federated Learning Meets Multi-objective Optimization, 2020,
      arXiv:2006.11489, algorithm 1 (FedMGDA+).
    """

    def rule(updates: Model, weights: Array) -> Model:
        leaves = [x.reshape(x.shape[0], -1) for x in jax.tree.leaves(updates.params)]
        wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in leaves]
        squares = sum((jnp.sum(x * x, axis=1) for x in wide), jnp.zeros(()))
        inverse = jnp.where(squares > 0, jax.lax.rsqrt(jnp.where(squares > 0, squares, 1)), 0)
        products = sum((jnp.matmul(x, x.T, precision="highest") for x in wide), jnp.zeros(()))
        gram = products * inverse[:, None] * inverse[None, :]
        total = jnp.sum(weights)
        centre = (weights / jnp.where(total > 0, total, 1)).astype(gram.dtype)
        mixture = shortest_near(gram, centre, epsilon)

        def mix(factor: Array, table: Array) -> Array:
            kind = jnp.promote_types(table.dtype, jnp.float32)
            mixed = jnp.tensordot(
                factor.astype(kind), table.astype(kind), axes=1, precision="highest"
            )
            is_float = jnp.issubdtype(table.dtype, jnp.floating)
            return mixed.astype(table.dtype) if is_float else mixed

        params = jax.tree.map(lambda x: mix(mixture * inverse, x), updates.params)
        return Model(params, jax.tree.map(lambda x: mix(centre, x), updates.state))

    return rule
