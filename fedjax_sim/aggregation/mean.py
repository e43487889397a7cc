"""The weighted mean of reports, streamed: memory is one update, whatever the cohort."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import Aggregator
from fedjax_sim.core.types import Aggregate, Array, Model, PyTree, Report


class MeanAcc(NamedTuple):
    """Sums over reports: `w u`, `w`, number with w > 0, and `w a` of the rescaling value."""

    total: PyTree
    weight: Array
    heard: Array
    rescale: Array


def mean(*, rescale: str | None = None) -> Aggregator:
    """`sum w_i u_i / sum w_i`.

    A report of weight 0 counts for nothing, also when its update is NaN. Integer leaves are
    averaged in floating point and rounded.

    Args:
      rescale: name of an `aux` value a_i; the params part of the mean is multiplied by
        `sum w_i a_i / sum w_i` (FedNova's effective number of steps).

    Cost: one update's bytes; `P` multiply-adds a report.
    """

    def zero(report: Report, k: int) -> MeanAcc:
        del k
        total = jax.tree.map(lambda s: jnp.zeros(s.shape, _floating(s.dtype)), report.update)
        nothing = jnp.zeros((), _floating(report.weight.dtype))
        return MeanAcc(total, nothing, jnp.zeros((), jnp.int32), nothing)

    def accumulate(acc: MeanAcc, reports: Report, rows: Array) -> MeanAcc:
        del rows
        weight = reports.weight

        def fold(total: Array, update: Array) -> Array:
            w = weight.reshape(weight.shape + (1,) * (update.ndim - 1)).astype(total.dtype)
            return total + jnp.sum(jnp.where(w > 0, w * update, 0), axis=0)

        value = reports.aux[rescale] if rescale else jnp.ones_like(weight)
        return MeanAcc(
            jax.tree.map(fold, acc.total, reports.update),
            acc.weight + jnp.sum(weight),
            acc.heard + jnp.sum(weight > 0, dtype=jnp.int32),
            acc.rescale + jnp.sum(jnp.where(weight > 0, weight * value, 0)),
        )

    def finalize(acc: MeanAcc) -> Aggregate:
        safe = jnp.where(acc.weight > 0, acc.weight, 1)
        update = jax.tree.map(lambda t: t / safe.astype(t.dtype), acc.total)
        if rescale:
            update = _rescaled(update, acc.rescale / safe)
        return Aggregate(update, acc.weight, acc.heard, {})

    return Aggregator(
        zero, accumulate, None, finalize, lambda report, k: tree.n_bytes(report.update)
    )


def _floating(dtype: jnp.dtype) -> jnp.dtype:
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def _rescaled(update: Model, factor: Array) -> Model:
    return update._replace(params=tree.scale(update.params, factor))
