"""Any aggregate, and beside it every client's own update for rules that compare clients."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.aggregation.collect import collect
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import Aggregator
from fedjax_sim.core.types import Aggregate, Array, PyTree, Report

UPDATES = "updates"
"""Name in `Aggregate.aux` of the params parts of the updates, leaves `[K, ...]`."""


class WithUpdates(NamedTuple):
    """The base's accumulator, and the table of updates."""

    base: PyTree
    table: PyTree


def with_updates(base: Aggregator) -> Aggregator:
    """The aggregate of `base`; its `aux["updates"]` has the params of each update, `[K, ...]`.

    By cohort row, zeros for who was not heard.

    Args:
      base: any aggregator that is merged by addition.

    Raises:
      ValueError: for a base with a merge of its own.

    Cost: K x P memory on every device besides the base's; the plan refuses it with the figure
      when it cannot fit.
    """
    if base.merge is not None:
        raise ValueError("with_updates needs an aggregator that is merged by addition")
    kept = collect(lambda updates, weights: updates)

    def params(report: Report) -> Report:
        return report._replace(update=report.update.params)

    def zero(report: Report, k: int) -> WithUpdates:
        return WithUpdates(base.zero(report, k), kept.zero(params(report), k))

    def accumulate(acc: WithUpdates, reports: Report, rows: Array) -> WithUpdates:
        return WithUpdates(
            base.accumulate(acc.base, reports, rows),
            kept.accumulate(acc.table, params(reports), rows),
        )

    def finalize(acc: WithUpdates) -> Aggregate:
        found, table = base.finalize(acc.base), kept.finalize(acc.table).update
        return found._replace(aux=found.aux | {UPDATES: table})

    def held(report: Report, k: int) -> int:
        return base.bytes_held(report, k) + kept.bytes_held(params(report), k)

    return Aggregator(zero, accumulate, None, finalize, held)


def row_norms(updates: PyTree) -> Array:
    """The norm of each row `[K]` of a tree with leaves `[K, ...]`."""
    return jnp.sqrt(jax.vmap(tree.squared_norm)(updates))


def cosines(updates: PyTree) -> Array:
    """Cosine similarity `[K, K]` of the rows of a tree with leaves `[K, ...]`.

    A row of norm 0 has cosine 0 with all others, and 1 with itself.

    Cost: K^2 P multiply-adds.
    """
    norms = row_norms(updates)
    k = norms.shape[0]

    def products(leaf: Array) -> Array:
        flat = leaf.reshape(k, -1).astype(norms.dtype)
        # Exact enough on an accelerator only when told so.
        return jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)

    total = sum((products(leaf) for leaf in jax.tree.leaves(updates)), jnp.zeros((k, k)))
    safe = jnp.where(norms > 0, norms, 1)
    found = jnp.clip(total / safe[:, None] / safe[None], -1, 1)
    return jnp.where(jnp.eye(k, dtype=bool), 1, found)
