"""Robust rules for `collect`: what a few wild clients cannot move far."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_sim.aggregation.network import in_order
from fedjax_sim.core.types import Array, PyTree

_NETWORK = 32  # rows; programs of larger networks take long to compile


def coordinate_median() -> Callable[[PyTree, Array], PyTree]:
    """The median of every coordinate over the present clients, unweighted.

    With an even number present, the mean of the two middle values. Fewer than half of the
    clients cannot move a coordinate beyond the others' range.

    Cost: one sort over K for each of P coordinates; for up to 32 clients as a network of
      elementwise comparisons, on a CPU some 120 times faster than XLA's sort. NaN counts as
      infinite.
    Reference: Yin et al., Byzantine-Robust Distributed Learning, 2018, arXiv:1803.01498,
      definition 1 and algorithm 1 (option I).
    """

    def rule(updates: PyTree, weights: Array) -> PyTree:
        heard = weights > 0
        n = jnp.sum(heard, dtype=jnp.int32)
        low, high = jnp.maximum(n - 1, 0) // 2, n // 2

        def median(table: Array) -> Array:
            mask = heard.reshape((-1,) + (1,) * (table.ndim - 1))
            if not jnp.issubdtype(table.dtype, jnp.floating):
                table = table.astype(jnp.result_type(float))
            known = jnp.where(mask & ~jnp.isnan(table), table, jnp.inf)
            if table.shape[0] <= _NETWORK:
                rows = in_order(list(known))
                middle = (_row(rows, low) + _row(rows, high)) / 2
            else:
                ordered = jnp.sort(known, axis=0)
                middle = (ordered[low] + ordered[high]) / 2
            return jnp.where(n > 0, middle, 0).astype(table.dtype)

        return jax.tree.map(median, updates)

    return rule


def _row(rows: list[Array], at: Array) -> Array:
    """`rows[at]` as a part of the pass that makes them."""
    picked = rows[0]
    for i, row in enumerate(rows[1:], start=1):
        picked = jnp.where(at == i, row, picked)
    return picked
