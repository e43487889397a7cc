"""The drift panel: do the clients of a round pull the same way?

`drift_panel` wraps the pieces of an algorithm so that clients' updates are summed up as they
end, in the rounds that are due and nowhere else. Training draws and adds up what it does without
it; its last bits may differ, for what else a program holds decides which operations XLA fuses.
`drift_watch` adds what needs the server's step, and a probe of the gradients' noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.aggregation.mean import MeanAcc
from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.contracts import Aggregator
from fedjax_sim.core.types import Aggregate, Array, Model, PyTree, Report
from fedjax_sim.diagnostics.deferred import Deferred, deferred, plain
from fedjax_sim.diagnostics.drift_groups import (
    GROUPS_MEASURED,
    Grouping,
    GroupSums,
    add_to_groups,
    bytes_of_groups,
    group_statistics,
    grouping,
    no_group_sums,
)
from fedjax_sim.diagnostics.drift_statistics import (
    Sums,
    is_due,
    no_sums,
    square_of,
    statistics,
    sums_of,
    wide,
    wide_type,
)
from fedjax_sim.diagnostics.drift_watch import DIRECTIONS, MEASURED, Directions, drift_watch
from fedjax_sim.engine.compose import Parts

__all__ = ["drift_panel", "drift_watch", "params_of"]


class _Own(NamedTuple):
    """What the panel sums up.

    Attributes:
      sums: over all clients.
      directions: `sum u_i`, shaped like params, or `[G, ...]` with groups.
      total: `sum w_i D_i` likewise; `()` where the algorithm's own mean has it.
      groups: sums by group, or `()`.
    """

    sums: Sums
    directions: PyTree
    total: PyTree
    groups: Any


class _Acc(NamedTuple):
    base: PyTree
    own: Any


def drift_panel(*, every: int, groups: Any = None) -> Callable[[Parts, Array], Parts]:
    """Measure how far the clients' updates pull apart, in every `every`-th round.

    Adds to the round's values those of `drift_statistics.statistics` (with groups, also those of
    `drift_groups.group_statistics`), and `drift_measured`: whether the round was due (the first
    is, then each whose number `every` divides) and at least two clients sent an update that is
    not zero. Reports of weight 0 count for nothing. A cohort of one is not measured, nor is an
    algorithm that shares no model.

    Args:
      every: rounds from one reading to the next.
      groups: int `[N]`, each client's group from 0, or None.

    Returns:
      `(Parts, round) -> Parts` for `bind(..., panel=...)`.

    Raises:
      InputError: `every` is below 1; `groups` are no small whole numbers; they, or the
        clients' updates, cannot be held or read (when the algorithm is bound and run).

    Cost: in a round that is due two reads of each client's update, and one extra accumulator of
      P (two where the aggregator is not the plain mean; 2 G P with groups); else nothing but
      that accumulator's sum over devices.
    """
    integer("diagnosis.drift_every", every, least=1)
    of_client = None if groups is None else grouping(groups)

    def panel(parts: Parts, round_index: Array) -> Parts:
        if not parts.shared:
            return parts
        measuring = _measured(parts.aggregator, is_due(round_index, every), of_client)
        return parts._replace(client=deferred(parts.client), aggregator=measuring)

    return panel


def params_of(update: PyTree) -> PyTree:
    """The params part of an update: of a `Model`, or of one that lies in its field `model`.

    SCAFFOLD's clients report a `Controlled(model, control)`; an algorithm of one's own does
    likewise to be readable.
    """
    model = update if isinstance(update, Model) else getattr(update, "model", None)
    if not isinstance(model, Model):
        remedy = (
            f"cannot read this algorithm's updates ({type(update).__name__}): they must be a "
            "Model or have one in a field `model`; drift_every = 0 leaves the panel out"
        )
        raise InputError("diagnosis.drift_every", "on", remedy)
    return model.params


def _moves(reports: Report) -> Array | bool:
    """Which reports are of training; some algorithms have rounds that only measure (FedLin).

    These say so by a field `measured` of the update, above 0.
    """
    told = getattr(plain(reports).update, "measured", None)
    return True if told is None else told <= 0


def _measured(base: Aggregator, due: Array, of_client: Grouping | None) -> Aggregator:
    """`base` with the panel's sums beside its own; reports come `Deferred`."""

    def zero(report: Report, k: int) -> _Acc:
        report = plain(report)
        acc = base.zero(report, k)
        return _Acc(acc, _empty(report, acc, of_client) if k > 1 else ())

    def accumulate(acc: _Acc, reports: Report, rows: Array) -> _Acc:
        after = base.accumulate(acc.base, plain(reports), rows)
        if not isinstance(acc.own, _Own):
            return _Acc(after, ())
        wanted = due & jnp.any((reports.weight > 0) & _moves(reports))
        # A `cond` leaves the accumulator where it is, and its operands too; a loop of no or one
        # turn copies the work that it reads, for every client of every round.
        own = jax.lax.cond(
            wanted, lambda own: _add(own, reports, of_client), lambda own: own, acc.own
        )
        return _Acc(after, own)

    def finalize(acc: _Acc) -> Aggregate:
        aggregate = base.finalize(acc.base)
        if not isinstance(acc.own, _Own):
            return aggregate
        return aggregate._replace(aux=aggregate.aux | _values(acc, due))

    def merge(a: _Acc, b: _Acc) -> _Acc:
        assert base.merge is not None
        return _Acc(base.merge(a.base, b.base), tree.add(a.own, b.own))

    def held(report: Report, k: int) -> int:
        report = plain(report)
        own = _bytes(report, k, of_client) if k > 1 else 0
        return base.bytes_held(report, k) + own

    return Aggregator(zero, accumulate, None if base.merge is None else merge, finalize, held)


def _empty(report: Report, acc: PyTree, of_client: Grouping | None) -> _Own:
    if getattr(report.weight, "shape", None) != ():
        remedy = "needs reports of one weight each; drift_every = 0 leaves the panel out"
        raise InputError("diagnosis.drift_every", "on", remedy)
    lead = () if of_client is None else (of_client.count,)
    nothing = jax.tree.map(
        lambda s: jnp.zeros((*lead, *s.shape), wide_type(s.dtype)), params_of(report.update)
    )
    has_total = isinstance(acc, MeanAcc) and of_client is None
    return tree.strong(
        _Own(
            sums=no_sums(),
            directions=nothing,
            total=() if has_total else nothing,
            groups=() if of_client is None else no_group_sums(of_client),
        )
    )


def _bytes(report: Report, k: int, of_client: Grouping | None) -> int:
    one = 4 * tree.n_entries(params_of(report.update))
    return 2 * one if of_client is None else bytes_of_groups(of_client, one)


def _add(own: _Own, reports: Report, of_client: Grouping | None) -> _Own:
    """Sums with a few more reports, of which at least one counts."""
    update: Deferred = reports.update
    weight = wide(reports.weight)
    squares = _squares(params_of(update.made()))
    sums = tree.add(own.sums, sums_of(weight, squares))
    safe = jnp.where((weight > 0) & (squares > 0), squares, 1)
    scale = jnp.where((weight > 0) & (squares > 0), jax.lax.rsqrt(safe), 0)
    update, (scale, weight) = update.again(scale, weight)
    params = params_of(update.made())
    of_group = None if of_client is None else of_client.of(update.member_ids())
    directions = _added(own.directions, params, scale, of_group)
    total = own.total if own.total == () else _added(own.total, params, weight, of_group)
    groups = own.groups
    if isinstance(groups, GroupSums):
        assert of_group is not None
        groups = add_to_groups(groups, of_group, weight, squares)
    return tree.as_before(_Own(sums, directions, total, groups), own)


def _squares(params: PyTree) -> Array:
    """`|D_i|^2`, `[n]`, of updates `[n, ...]`."""
    leaves = [wide(x).reshape(x.shape[0], -1) for x in jax.tree.leaves(params)]
    # One client is a plain dot product: a batch of one is several times slower on a CPU.
    dots = [jnp.vdot(x, x)[None] if len(x) == 1 else jnp.sum(x * x, axis=1) for x in leaves]
    return sum(dots[1:], start=dots[0])


def _added(total: PyTree, params: PyTree, factor: Array, of_group: Array | None) -> PyTree:
    """`total + sum_i factor_i D_i`, by group where there are any; factor 0 leaves a row out."""

    def add(t: Array, x: Array) -> Array:
        x = wide(x)
        if x.shape[0] == 1 and of_group is None:  # counts, or nobody would have asked
            return t + factor[0].astype(t.dtype) * x[0]
        f = factor.reshape(factor.shape + (1,) * (x.ndim - 1)).astype(t.dtype)
        part = jnp.where(f != 0, f * x, 0)
        return t + jnp.sum(part, axis=0) if of_group is None else t.at[of_group].add(part)

    return jax.tree.map(add, total, params)


def _values(acc: _Acc, due: Array) -> dict[str, Any]:
    """The round's scalars, and the sum of directions for the watch."""
    own: _Own = acc.own
    grouped = isinstance(own.groups, GroupSums)
    total = params_of(acc.base.total) if own.total == () else own.total

    def measure() -> dict[str, Array]:
        if grouped:
            values, squares = group_statistics(own.groups, own.total, own.directions)
            return tree.strong(statistics(own.sums, *squares) | values)
        found = statistics(own.sums, square_of(total), square_of(own.directions))
        return tree.strong(found)

    shapes = jax.eval_shape(measure)
    values = jax.lax.cond(due, measure, lambda: tree.zeros(shapes))
    measured = due & (own.sums.moved >= 2)
    if grouped:
        values[GROUPS_MEASURED] &= measured
    directions = Directions(own.directions, own.sums.moved)
    return values | {MEASURED: measured, DIRECTIONS: directions}
