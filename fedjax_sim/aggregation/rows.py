"""The mean of tables whose rows are weighed one by one: class prototypes, scores of examples."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import Aggregator
from fedjax_sim.core.types import Aggregate, Array, Report

ROWS_WEIGHT = "rows_weight"
"""Name of the total weight of every row, `[R]`, beside the mean."""


class RowsAcc(NamedTuple):
    """Sums over reports: `w_r u_r` `[R, F]`, `w_r` `[R]`, and how many had any positive w."""

    total: Array
    weight: Array
    heard: Array


def mean_of_rows() -> Aggregator:
    """`sum_i w_ir u_ir / sum_i w_ir` for each row r of tables `[R, F]`, weights `[R]`.

    A row of weight 0 counts for nothing, nor does one that is not finite; a row that nobody weighs
    is 0.

    Returns:
      An aggregator whose `Aggregate.aux` has the rows' total weights. As what comes up also goes
      down, in the same shape, it states the downlink's bytes: what else a server hands out in the
      simulation, such as the models with which clients begin, does not travel.

    Cost: one table and its weights.
    """

    def zero(report: Report, k: int) -> RowsAcc:
        del k
        kinds = (report.update.dtype, report.weight.dtype)
        shapes = (report.update.shape, report.weight.shape)
        total, weight = (jnp.zeros(s, d) for s, d in zip(shapes, kinds, strict=True))
        return RowsAcc(total, weight, jnp.zeros((), jnp.int32))

    def accumulate(acc: RowsAcc, reports: Report, rows: Array) -> RowsAcc:
        del rows
        u = reports.update
        w = jnp.where(jnp.all(jnp.isfinite(u), axis=-1), reports.weight, 0)
        parts = jnp.where(w[..., None] > 0, w[..., None].astype(u.dtype) * u, 0)
        heard = jnp.sum(jnp.any(w > 0, axis=1), dtype=jnp.int32)
        return RowsAcc(
            acc.total + jnp.sum(parts, axis=0), acc.weight + jnp.sum(w, axis=0), acc.heard + heard
        )

    def finalize(acc: RowsAcc) -> Aggregate:
        safe = jnp.where(acc.weight > 0, acc.weight, 1).astype(acc.total.dtype)
        down = jnp.uint32(tree.n_bytes(acc.total))
        aux = {ROWS_WEIGHT: acc.weight, "downlink_bytes_each": down}
        return Aggregate(acc.total / safe[:, None], jnp.sum(acc.weight), acc.heard, aux)

    return Aggregator(zero, accumulate, None, finalize, lambda report, k: tree.n_bytes(report))
