"""The mean of every coordinate over the clients that hold it, streamed."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import Aggregator
from fedjax_sim.core.types import Aggregate, Array, Model, PyTree, Report


class Covered(NamedTuple):
    """An update of a part of the model.

    Attributes:
      model: `Model` of decreases, in the whole model's shape; what is not held may be anything.
      held: for each leaf of `model` a tuple with one entry an axis: bool `[axis]`, which of its
        entries the client holds, or `()` for all. A coordinate is held where all its axes' are.
    """

    model: Model
    held: PyTree


class CoverageAcc(NamedTuple):
    """Sums over reports.

    Attributes:
      total: `sum w u` over the holders of each coordinate.
      weight: `sum w` likewise; a tuple of one array a leaf, length 1 along axes that all hold.
      everyone: `sum w` over all reports.
      heard: int32, reports of positive weight.
    """

    total: Model
    weight: tuple[Array, ...]
    everyone: Array
    heard: Array


def coverage() -> Aggregator:
    """`sum_{i holds c} w_i u_ic / sum_{i holds c} w_i` for every coordinate c.

    The update is 0 where nobody holds a coordinate, so that it stays. Reports are `Covered`. One
    of weight 0 counts for nothing, and what a client does not hold counts for nothing, also when
    it is NaN. Where everyone holds everything it is `mean`.

    Returns:
      An aggregator whose `Aggregate.update` is a `Model`; `aux["coverage"]` is the share of
      coordinates that somebody held.

    Cost: an update's bytes and up to as many for the weights; `2 P` multiply-adds a report.
    Reference: Diao, Ding, Tarokh, HeteroFL: Computation and Communication Efficient Federated
      Learning for Heterogeneous Clients, 2020, arXiv:2010.01264, equations 2 to 4.
    """

    def zero(report: Report, k: int) -> CoverageAcc:
        del k
        covered: Covered = report.update
        total = jax.tree.map(lambda s: jnp.zeros(s.shape, _floating(s.dtype)), covered.model)
        kind = _floating(report.weight.dtype)
        weight = tuple(
            jnp.zeros(
                [1 if isinstance(h, tuple) else n for n, h in zip(s.shape, axes, strict=True)], kind
            )
            for s, axes in _leaves(covered)
        )
        return CoverageAcc(total, weight, jnp.zeros((), kind), jnp.zeros((), jnp.int32))

    def accumulate(acc: CoverageAcc, reports: Report, rows: Array) -> CoverageAcc:
        del rows
        w, totals, weights = reports.weight, [], []
        sums = zip(jax.tree.leaves(acc.total), acc.weight, _leaves(reports.update), strict=True)
        for total, weight, (update, axes) in sums:
            each = _weights(w, axes, update.ndim)
            mine = each.astype(total.dtype)
            totals.append(total + jnp.sum(jnp.where(mine > 0, mine * update, 0), axis=0))
            weights.append(weight + jnp.sum(each, axis=0))
        return CoverageAcc(
            jax.tree.unflatten(jax.tree.structure(acc.total), totals),
            tuple(weights),
            acc.everyone + jnp.sum(w),
            acc.heard + jnp.sum(w > 0, dtype=jnp.int32),
        )

    def finalize(acc: CoverageAcc) -> Aggregate:
        leaves, structure = jax.tree.flatten(acc.total)
        safe = [jnp.where(w > 0, w, 1) for w in acc.weight]
        mean = [t / s.astype(t.dtype) for t, s in zip(leaves, safe, strict=True)]
        update = jax.tree.unflatten(structure, mean)
        aux = {"coverage": _share(leaves, acc.weight)}
        return Aggregate(update, acc.everyone, acc.heard, aux)

    def bytes_held(report: Report, k: int) -> int:
        del k
        return 2 * tree.n_bytes(report.update.model)

    return Aggregator(zero, accumulate, None, finalize, bytes_held)


def _leaves(covered: Covered) -> list[tuple[Any, tuple[Any, ...]]]:
    return list(zip(jax.tree.leaves(covered.model), covered.held, strict=True))


def _weights(weight: Array, axes: tuple[Any, ...], ndim: int) -> Array:
    """Weights `[n, ...]` of each report's coordinates, 0 where it does not hold them."""
    n = weight.shape[0]
    each = weight.reshape((n,) + (1,) * (ndim - 1))
    for at, holds in enumerate(axes):
        if not isinstance(holds, tuple):
            lift = (n,) + (1,) * at + holds.shape[1:] + (1,) * (ndim - at - 2)
            each = jnp.where(holds.reshape(lift), each, 0)
    return each


def _share(leaves: list[Array], weights: tuple[Array, ...]) -> Array:
    total = sum(leaf.size for leaf in leaves)
    each = [
        leaf.size * jnp.mean((w > 0).astype(float)) for leaf, w in zip(leaves, weights, strict=True)
    ]
    return sum(each, jnp.zeros(())) / max(total, 1)


def _floating(dtype: jnp.dtype) -> jnp.dtype:
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)
