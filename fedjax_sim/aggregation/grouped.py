"""The weighted mean of every group's reports, streamed: memory is M updates for any cohort."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.checks import integer
from fedjax_sim.core.contracts import Aggregator
from fedjax_sim.core.types import Aggregate, Array, PyTree, Report

ROW_WEIGHT = "row_weight"
"""Name of the weights by cohort row, 0 for the unheard, beside the collected values."""


class GroupedAcc(NamedTuple):
    """Sums over each group's reports, and what is collected.

    Attributes:
      total: `sum w u`, leaves `[M, ...]`.
      weight: `sum w` `[M]`.
      heard: int32 `[M]`, reports of positive weight.
      rows: `{name: [K, ...]}` by cohort row, 0 for who was not heard.
    """

    total: PyTree
    weight: Array
    heard: Array
    rows: dict[str, Array]


def grouped(groups: int, *, collect: Sequence[str] = ()) -> Aggregator:
    """`sum w_i u_i / sum w_i` over the reports of each group, routed by `Report.group`.

    A report whose group is not in 0 .. M-1 is left out of every mean. One of weight 0 counts
    for nothing, also when its update is NaN; one that is NaN spoils no group but its own.

    Args:
      groups: M.
      collect: names of small `aux` values that the server is to see one by one.

    Returns:
      An aggregator whose `Aggregate.update` has leaves `[M, ...]`, zeros where nobody of a
      group was heard. Its `aux` has `group_weight [M]` and `group_heard` int32 `[M]`; with
      `collect`, besides, `{name: [K, ...]}` and `row_weight [K]` by cohort row. Collected
      are all that were heard, also those of no group.

    Raises:
      InputError: when M is not at least 1.

    Cost: M x P memory (and K x the collected values); P multiply-adds for one report, M x n x P
      selections where n lanes end together.
    """
    m = integer("groups", groups, least=1)

    def zero(report: Report, k: int) -> GroupedAcc:
        total = jax.tree.map(lambda s: jnp.zeros((m, *s.shape), _floating(s.dtype)), report.update)
        kind = _floating(report.weight.dtype)
        rows = {n: jnp.zeros((k, *s.shape), s.dtype) for n, s in _taken(report, collect).items()}
        return GroupedAcc(total, jnp.zeros(m, kind), jnp.zeros(m, jnp.int32), rows)

    def accumulate(acc: GroupedAcc, reports: Report, rows: Array) -> GroupedAcc:
        weight = reports.weight
        member = reports.group[None, :] == jnp.arange(m, dtype=jnp.int32)[:, None]  # [M, n]
        add = _add_one if weight.shape[0] == 1 else _add_many

        def put(table: Array, value: Array) -> Array:
            clean = tree.where_rows(weight > 0, value, jnp.zeros_like(value))
            return table.at[rows].set(clean, mode="drop")

        return GroupedAcc(
            total=jax.tree.map(
                lambda t, u: add(t, _weighted(weight, u, t.dtype), member),
                acc.total,
                reports.update,
            ),
            weight=acc.weight + jnp.sum(jnp.where(member, weight[None, :], 0), axis=1),
            heard=acc.heard + jnp.sum(member & (weight > 0)[None, :], axis=1, dtype=jnp.int32),
            rows={n: put(acc.rows[n], v) for n, v in _taken(reports, collect).items()},
        )

    def finalize(acc: GroupedAcc) -> Aggregate:
        safe = jnp.where(acc.weight > 0, acc.weight, 1)
        update = jax.tree.map(lambda t: t / over(safe, t).astype(t.dtype), acc.total)
        aux = {"group_weight": acc.weight, "group_heard": acc.heard} | acc.rows
        n_present = jnp.sum(acc.heard, dtype=jnp.int32)
        return Aggregate(update, jnp.sum(acc.weight), n_present, aux)

    def held(report: Report, k: int) -> int:
        each = sum(tree.n_bytes(v) for v in _taken(report, collect).values())
        return m * tree.n_bytes(report.update) + k * each

    return Aggregator(zero, accumulate, None, finalize, held)


def over(values: Array, like: Array) -> Array:
    """Values `[M]` with axes of length 1 added, to go with `like` `[M, ...]`."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def _taken(report: Report, names: Sequence[str]) -> dict[str, Array]:
    return {n: report.aux[n] for n in names} | ({ROW_WEIGHT: report.weight} if names else {})


def _floating(dtype: jnp.dtype) -> jnp.dtype:
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def _weighted(weight: Array, update: Array, dtype: jnp.dtype) -> Array:
    w = over(weight, update).astype(dtype)
    return jnp.where(w > 0, w * update, 0)


def _add_one(total: Array, value: Array, member: Array) -> Array:
    """Add `value [1, ...]` to its group's row and touch no other."""
    belongs, at = jnp.any(member), jnp.argmax(member[:, 0])
    row = jax.lax.dynamic_index_in_dim(total, at, keepdims=False)
    row = row + jnp.where(belongs, value[0], 0)
    return jax.lax.dynamic_update_index_in_dim(total, row, at, 0)


def _add_many(total: Array, value: Array, member: Array) -> Array:
    """Add `value [n, ...]` to the groups' rows.

    By selection, not by a product with 0 and 1, which would spread a NaN; nor by a scatter,
    whose order of addition is left open on a GPU.
    """
    mask = member.reshape(member.shape + (1,) * (value.ndim - 1))
    return total + jnp.sum(jnp.where(mask, value[None], 0), axis=1)
