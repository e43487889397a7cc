"""Wrappers that change what a client reports."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, PyTree, Report
from fedjax_sim.data.batching import ClientData


def with_report(
    client: Callable[[Task], ClientUpdate], change: Callable[[Report, Array], Report]
) -> Callable[[Task], ClientUpdate]:
    """Pass each report through `change(report, steps)`; `steps` is int32, those done."""

    def build(task: Task) -> ClientUpdate:
        base = client(task)

        def finish(
            ctx: Context, work: PyTree, received: PyTree, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            report, row = base.finish(ctx, work, received, row, data)
            return change(report, base.steps(ctx, data)), row

        return base._replace(finish=finish)

    return build


def normalized(momentum: Array | float = 0.0) -> Callable[[Report, Array], Report]:
    """Divide the params update by `|a_i|_1`, the weight of the client's steps in it.

    For SGD `|a_i|_1 = steps`; with local momentum rho it is
    `(steps - rho (1 - rho^steps) / (1 - rho)) / (1 - rho)`. The value is reported as
    `aux["normalizer"]`, for `mean(rescale="normalizer")`.

    Reference: Wang et al., Tackling the Objective Inconsistency Problem, 2020,
      arXiv:2007.07481, section 4.
    """

    def change(report: Report, steps: Array) -> Report:
        n = steps.astype(report.weight.dtype)
        norm = (n - momentum * (1 - momentum**n) / (1 - momentum)) / (1 - momentum)
        safe = jnp.where(norm > 0, norm, 1)
        update = report.update._replace(params=tree.scale(report.update.params, 1 / safe))
        return report._replace(update=update, aux=report.aux | {"normalizer": norm})

    return change
