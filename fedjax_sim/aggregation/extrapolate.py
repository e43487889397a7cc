"""The mean of reports, stretched as far as their disagreement allows (FedExP)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.aggregation.mean import MeanAcc, mean
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import Aggregator
from fedjax_sim.core.types import Aggregate, Array, Model, PyTree, Report


class StretchedAcc(NamedTuple):
    """The sums of `mean`, and `sum w_i |u_i|^2`."""

    base: MeanAcc
    squares: Array


def extrapolated(epsilon: Array | float) -> Aggregator:
    """`eta sum_i w_i u_i / sum_i w_i`, `eta = max(1, mean |u_i|^2 / (2 (|mean u|^2 + epsilon)))`.

    Only the params part counts and is stretched; a model's state is averaged plainly.

    Args:
      epsilon: at least 0; what keeps the step short where the mean update is small.

    Returns:
      An aggregator of reports whose updates are `Model`s; `Aggregate.aux` has `server_rate`, eta.

    Cost: one update's bytes; `2 P` multiply-adds a report.
    Reference: Jhunjhunwala et al., FedExP: Speeding Up Federated Averaging via Extrapolation,
      2023, arXiv:2301.09604, equation 6.
    """
    base = mean()

    def zero(report: Report, k: int) -> StretchedAcc:
        return StretchedAcc(base.zero(report, k), jnp.zeros((), report.weight.dtype))

    def accumulate(acc: StretchedAcc, reports: Report, rows: Array) -> StretchedAcc:
        squares = jax.vmap(_square)(reports.update.params).astype(acc.squares.dtype)
        kept = jnp.where(reports.weight > 0, reports.weight * squares, 0)
        folded = base.accumulate(acc.base, reports, rows)
        return StretchedAcc(folded, acc.squares + jnp.sum(kept, dtype=acc.squares.dtype))

    def finalize(acc: StretchedAcc) -> Aggregate:
        found = base.finalize(acc.base)
        each = acc.squares / jnp.where(found.weight > 0, found.weight, 1)
        double = 2 * (_square(found.update.params) + epsilon)
        rate = jnp.maximum(1, each / jnp.where(double > 0, double, jnp.inf))
        rate = jnp.where(found.weight > 0, rate, 1).astype(acc.squares.dtype)
        stretched = Model(tree.scale(found.update.params, rate), found.update.state)
        return found._replace(update=stretched, aux=found.aux | {"server_rate": rate})

    return Aggregator(
        zero, accumulate, None, finalize, lambda report, k: tree.n_bytes(report.update)
    )


def _square(params: PyTree) -> Array:
    """`|params|^2`, summed in at least float32."""
    wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in jax.tree.leaves(params)]
    return tree.squared_norm(wide)
