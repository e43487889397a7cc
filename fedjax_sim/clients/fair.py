"""Clients whose part in the average depends on how badly the global model does for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from fedjax_sim.clients.phases import loss_first
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import ClientData

TILT, STRETCH, LOSS = "log_tilt", "stretch", "loss_before"
"""Names in `Report.aux`: log of the factor on the weight, q-FedAvg's divisor, the client's loss."""

_LEAST = 1e-10  # a loss is taken to be at least this: the authors of q-FFL add as much

Trainer = Callable[[Task], ClientUpdate]


def powered(client: Trainer, q: Array | float, lipschitz: Array | float) -> Trainer:
    """Report `log F^q` and `h / F^q = 1 + q L |u|^2 / F` beside the update u (q-FedAvg).

    F is the mean loss of the received model on the client's own examples, taken to be at least
    1e-10, so that clients without loss and losses below 0 are safe.

    Args:
      client: whose reports are `Model`s.
      q: at least 0.
      lipschitz: L.
    """

    def change(report: Report, loss: Array, ctx: Context, data: ClientData) -> Report:
        del ctx, data
        safe = jnp.maximum(loss, _LEAST)
        square = tree.squared_norm(report.update.params).astype(safe.dtype)
        found = {TILT: q * jnp.log(safe), STRETCH: 1 + q * lipschitz * square / safe, LOSS: loss}
        return report._replace(aux=report.aux | found)

    return loss_first(client, report=change)


def tilting(client: Trainer, t: Array | float) -> Trainer:
    """Report `t F`, the logarithm of TERM's tilt `exp(t F)`.

    Args:
      client: what is trained.
      t: any number; above 0 the badly served count more, below 0 less.
    """

    def change(report: Report, loss: Array, ctx: Context, data: ClientData) -> Report:
        del ctx, data
        return report._replace(aux=report.aux | {TILT: t * loss, LOSS: loss})

    return loss_first(client, report=change)


class Shared(NamedTuple):
    """A model with the domains' shares `[M]`, as sent, or with one's own, as received."""

    model: Model
    share: Array


def sharing(client: Trainer, domain_of: Callable[[Array], Array], *, alone: bool) -> Trainer:
    """Report the share of one's domain, its logarithm and one's loss (AFL).

    Args:
      client: receives a `Model`.
      domain_of: `client id -> domain`, int32.
      alone: every client is a domain of its own, in which its weight means nothing: it is 1.

    Returns:
      A client that receives a `Shared`; `Report.group` and `aux["group"]` are its domain.
    """

    def measured(report: Report, loss: Array, ctx: Context, data: ClientData) -> Report:
        del data
        domain = jnp.asarray(domain_of(ctx.member.id), jnp.int32)
        weight = report.weight
        weight = jnp.where(weight > 0, jnp.ones_like(weight), 0) if alone else weight
        aux = report.aux | {LOSS: loss, "group": domain}
        return report._replace(weight=weight, group=domain, aux=aux)

    def build(task: Task) -> ClientUpdate:
        base = loss_first(client, report=measured)(task)

        def start(ctx: Context, received: Shared, row: PyTree, data: ClientData) -> Any:
            return base.start(ctx, received.model, row, data)

        def step(ctx: Context, t: Array, work: Any, received: Shared, data: ClientData) -> Any:
            return base.step(ctx, t, work, received.model, data)

        def finish(
            ctx: Context, work: Any, received: Shared, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            report, row = base.finish(ctx, work, received.model, row, data)
            aux = report.aux | {"share": received.share, TILT: jnp.log(received.share)}
            return report._replace(aux=aux), row

        return base._replace(start=start, step=step, finish=finish)

    return build
