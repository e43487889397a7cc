"""The aggregator of a cohort of one."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Aggregator
from fedjax_sim.core.types import Aggregate, Array, PyTree, Report


class Single(NamedTuple):
    """The one update (zeros before it came), its weight, and how many came."""

    update: PyTree
    weight: Array
    heard: Array


def take_one() -> Aggregator:
    """Keep the update of the one client that reports; refuses a cohort of more than one."""

    def zero(report: Report, k: int) -> Single:
        if k != 1:
            raise InputError("cohort", k, "must be 1 for an algorithm that trains in one place")
        nothing = jnp.zeros((), report.weight.dtype)
        return Single(tree.zeros(report.update), nothing, jnp.zeros((), jnp.int32))

    def accumulate(acc: Single, reports: Report, rows: Array) -> Single:
        del rows
        update = jax.tree.map(lambda a, u: a + u[0].astype(a.dtype), acc.update, reports.update)
        count = acc.heard + jnp.sum(reports.weight > 0, dtype=jnp.int32)
        return Single(update, acc.weight + jnp.sum(reports.weight), count)

    return Aggregator(
        zero=zero,
        accumulate=accumulate,
        merge=None,
        finalize=lambda acc: Aggregate(acc.update, acc.weight, acc.heard, {}),
        bytes_held=lambda report, k: tree.n_bytes(report.update),
    )
