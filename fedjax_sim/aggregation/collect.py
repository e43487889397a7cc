"""Rules that must see all reports at once: they hold the whole cohort's updates, K x P."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import Aggregator
from fedjax_sim.core.types import Aggregate, Array, PyTree, Report


class Collected(NamedTuple):
    """Updates `[K, ...]` and weights `[K]` by cohort row; absent rows are 0."""

    updates: PyTree
    weights: Array


def collect(rule: Callable[[PyTree, Array], PyTree]) -> Aggregator:
    """Aggregate by a rule over all reports.

    Args:
      rule: `(updates [K, ...], weights [K]) -> update`; weight 0 means absent.

    Cost: K x P memory on every device; the plan refuses it with the figure when it cannot
    fit.
    """

    def zero(report: Report, k: int) -> Collected:
        table = jax.tree.map(lambda s: jnp.zeros((k, *s.shape), s.dtype), report.update)
        return Collected(table, jnp.zeros(k, report.weight.dtype))

    def accumulate(acc: Collected, reports: Report, rows: Array) -> Collected:
        heard = reports.weight > 0

        def put(table: Array, update: Array) -> Array:
            clean = tree.where_rows(heard, update, jnp.zeros_like(update))
            return table.at[rows].set(clean, mode="drop")

        updates = jax.tree.map(put, acc.updates, reports.update)
        return Collected(updates, acc.weights.at[rows].set(reports.weight, mode="drop"))

    def finalize(acc: Collected) -> Aggregate:
        present = jnp.sum(acc.weights > 0, dtype=jnp.int32)
        return Aggregate(rule(acc.updates, acc.weights), jnp.sum(acc.weights), present, {})

    def held(report: Report, k: int) -> int:
        return k * tree.n_bytes(report.update)

    return Aggregator(zero, accumulate, None, finalize, held)
