"""Every report by itself, and whose it is: for servers that keep something of each client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.aggregation.collect import Collected, collect
from fedjax_sim.aggregation.grouped import ROW_WEIGHT
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import Aggregator
from fedjax_sim.core.types import Aggregate, Array, PyTree, Report

REPORTS = "reports"
"""Name of the updates `[K, ...]` by cohort row, 0 for who was not heard."""
CLIENT = "client"
"""Name of the `aux` value in which a client tells its id."""


class Said(NamedTuple):
    """What one client reports: an update, and named small values."""

    update: PyTree
    values: dict[str, Array]


def by_client(*, values: Sequence[str] = (), down: str | None = None) -> Aggregator:
    """The weighted mean of updates; its `aux` has all updates, one by one, and whose they are.

    Args:
      values: names of further `aux` values that the server is to see.
      down: name of a value that has one entry for each model of the report's size that the client
        received, for the records of traffic; one by default. What else a lane may read of the
        server's table in the simulation does not travel.

    Returns:
      An aggregator whose `Aggregate.aux` has `reports [K, ...]`, `client` int32 `[K]`,
      `row_weight [K]`, the named values `[K, ...]`, and the bytes that go down.

    Cost: K x P memory on every device; the plan refuses it with the figure when it cannot fit.
    """
    kept = collect(lambda updates, weights: updates)
    names = (CLIENT, *values)

    def whole(report: Report) -> Report:
        return report._replace(update=Said(report.update, {n: report.aux[n] for n in names}))

    def finalize(acc: Collected) -> Aggregate:
        said, found = acc.updates, kept.finalize(acc)
        share = acc.weights / jnp.where(found.weight > 0, found.weight, 1)

        def mean(rows: Array) -> Array:
            kind = rows.dtype if jnp.issubdtype(rows.dtype, jnp.floating) else share.dtype
            each = share.reshape(share.shape + (1,) * (rows.ndim - 1)).astype(kind)
            return jnp.sum(jnp.where(each > 0, each * rows, 0), axis=0)

        update = jax.tree.map(mean, said.update)
        each = tree.n_bytes(said.update) // acc.weights.shape[0]
        many = 1 if down is None else said.values[down].shape[1]
        told = {REPORTS: said.update, ROW_WEIGHT: acc.weights}
        told |= {"downlink_bytes_each": jnp.uint32(many * each)}
        return found._replace(update=update, aux=said.values | told)

    return Aggregator(
        zero=lambda report, k: kept.zero(whole(report), k),
        accumulate=lambda acc, reports, rows: kept.accumulate(acc, whole(reports), rows),
        merge=None,
        finalize=finalize,
        bytes_held=lambda report, k: kept.bytes_held(whole(report), k),
    )
