"""The mean under weights that are known by their logarithm only, streamed without overflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import Aggregator
from fedjax_sim.core.types import Aggregate, Array, Model, PyTree, Report

ROW_WEIGHT = "row_weight"
"""Name of the weights by cohort row, 0 for the unheard, beside the collected values."""


class TiltedAcc(NamedTuple):
    """Sums over reports, all but the last three in units of `exp(peak)`.

    Attributes:
      peak: the largest l so far, -inf at first.
      total: `sum w e^l u`.
      weight: `sum w e^l`.
      square: `sum (w e^l)^2`, in units of `exp(2 peak)`.
      stretched: `sum w e^l d`.
      plain: `sum w`.
      heard: int32, reports of positive weight.
      rows: `{name: [K, ...]}`, what is collected.
    """

    peak: Array
    total: PyTree
    weight: Array
    square: Array
    stretched: Array
    plain: Array
    heard: Array
    rows: dict[str, Array]


def tilted(tilt: str, *, stretch: str | None = None, collect: Sequence[str] = ()) -> Aggregator:
    """`sum w_i e^(l_i) u_i / sum w_i e^(l_i) d_i`, l and d being values in each report's `aux`.

    The largest l so far is kept and the sums are in units of its exponential, as in a streaming
    log-sum-exp: no l is too large or too small, and a common shift of all l changes nothing.
    l = -inf leaves an update out. A report of weight 0 counts for nothing, also when it is NaN.

    Args:
      tilt: name of l_i in `aux`.
      stretch: name of d_i in `aux`, which the params part is divided by; 1 by default. Model
        state is averaged with the weights `w e^l` alone.
      collect: names of small `aux` values that the server is to see one by one.

    Returns:
      An aggregator whose `Aggregate.weight` is `sum w`, or 0 where all were left out; its `aux`
      has `effective_clients`, `(sum w e^l)^2 / sum (w e^l)^2`, and with `collect` also
      `{name: [K, ...]}` and `row_weight [K]` by cohort row.

    Cost: one update's bytes (and K x the collected values); `2 P` multiply-adds a report.
    """

    def zero(report: Report, k: int) -> TiltedAcc:
        kind = _floating(report.weight.dtype)
        total = jax.tree.map(lambda s: jnp.zeros(s.shape, _floating(s.dtype)), report.update)
        nothing = jnp.zeros((), kind)
        rows = {n: jnp.zeros((k, *s.shape), s.dtype) for n, s in _taken(report, collect).items()}
        return TiltedAcc(
            peak=jnp.full((), -jnp.inf, kind),
            total=total,
            weight=nothing,
            square=nothing,
            stretched=nothing,
            plain=nothing,
            heard=jnp.zeros((), jnp.int32),
            rows=rows,
        )

    def accumulate(acc: TiltedAcc, reports: Report, rows: Array) -> TiltedAcc:
        weight, heard = reports.weight, reports.weight > 0
        level = jnp.where(heard, reports.aux[tilt], -jnp.inf).astype(acc.peak.dtype)
        acc = _at(acc, jnp.maximum(acc.peak, jnp.max(level)))
        factor = jnp.where(heard, weight * jnp.exp(level - _finite(acc.peak)), 0)
        length = reports.aux[stretch] if stretch else jnp.ones_like(weight)

        def fold(total: Array, update: Array) -> Array:
            f = factor.reshape(factor.shape + (1,) * (update.ndim - 1)).astype(total.dtype)
            return total + jnp.sum(jnp.where(f == 0, 0, f * update), axis=0)

        def put(table: Array, value: Array) -> Array:
            clean = tree.where_rows(heard, value, jnp.zeros_like(value))
            return table.at[rows].set(clean, mode="drop")

        return acc._replace(
            total=jax.tree.map(fold, acc.total, reports.update),
            weight=acc.weight + jnp.sum(factor),
            square=acc.square + jnp.sum(jnp.square(factor)),
            stretched=acc.stretched + jnp.sum(jnp.where(factor == 0, 0, factor * length)),
            plain=acc.plain + jnp.sum(jnp.where(heard, weight, 0)),
            heard=acc.heard + jnp.sum(heard, dtype=jnp.int32),
            rows={n: put(acc.rows[n], v) for n, v in _taken(reports, collect).items()},
        )

    def merge(a: TiltedAcc, b: TiltedAcc) -> TiltedAcc:
        peak = jnp.maximum(a.peak, b.peak)
        return tree.add(_at(a, peak), _at(b, peak))._replace(peak=peak)

    def finalize(acc: TiltedAcc) -> Aggregate:
        update = _over(acc.total, acc.weight)
        if stretch:
            update = Model(_over(acc.total.params, acc.stretched), update.state)
        many = jnp.square(acc.weight) / jnp.where(acc.square == 0, 1, acc.square)
        known = jnp.where(acc.weight == 0, 0, acc.plain)
        return Aggregate(update, known, acc.heard, {"effective_clients": many} | acc.rows)

    def held(report: Report, k: int) -> int:
        each = sum(tree.n_bytes(v) for v in _taken(report, collect).values())
        return tree.n_bytes(report.update) + k * each

    return Aggregator(zero, accumulate, merge, finalize, held)


def _at(acc: TiltedAcc, peak: Array) -> TiltedAcc:
    """The same sums in units of `exp(peak)`, at least the peak that they had."""
    keep = jnp.exp(acc.peak - _finite(peak))
    return acc._replace(
        peak=peak,
        total=tree.scale(acc.total, keep),
        weight=acc.weight * keep,
        square=acc.square * jnp.square(keep),
        stretched=acc.stretched * keep,
    )


def _finite(peak: Array) -> Array:
    """The peak to subtract: 0 where nobody has been heard, since -inf less -inf is NaN."""
    return jnp.where(peak == -jnp.inf, 0, peak)


def _taken(report: Report, names: Sequence[str]) -> dict[str, Array]:
    return {n: report.aux[n] for n in names} | ({ROW_WEIGHT: report.weight} if names else {})


def _floating(dtype: jnp.dtype) -> jnp.dtype:
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def _over(total: PyTree, by: Array) -> PyTree:
    """Leafwise `total / by`, and `total` where that is 0."""
    safe = jnp.where(by == 0, 1, by)
    return jax.tree.map(lambda t: t / safe.astype(t.dtype), total)
