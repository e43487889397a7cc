"""Clients that the server asks for a gradient before it lets them train.

FedLin and Mime correct local steps by the mean gradient at the model that the steps start from,
which nobody knows before all have told theirs: there are two exchanges to one step of the
model. Here each exchange is a round: in rounds 0, 2, 4, ... clients only measure, in the rounds
after those they train.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from fedjax_sim.clients.anchor import full_gradient
from fedjax_sim.clients.phases import phases
from fedjax_sim.clients.sgd import GradientWork, mean_gradient
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import ClientData

Client = Callable[[Task], ClientUpdate]


class Asked(NamedTuple):
    """What the server sends.

    Attributes:
      model: the global model.
      gradient: the mean gradient there, in rounds of training.
      opt: state of the server's optimizer.
    """

    model: Model
    gradient: PyTree
    opt: PyTree


class Told(NamedTuple):
    """What a client reports.

    Attributes:
      model: the decrease of its model; in rounds of measuring its gradient in the place of params.
      measured: float scalar, 1 where it is the gradient, else 0.
    """

    model: Model
    measured: Array


def measuring(ctx: Context) -> Array:
    """Whether this is a round of measuring, bool."""
    return ctx.round % 2 == 0


def asked_first(
    then: Client,
    *,
    given: Callable[[Asked, GradientWork], Asked] | None = None,
) -> Client:
    """Report the exact gradient in even rounds (from 0), train in odd ones.

    Args:
      then: receives an `Asked`, reports a `Model`.
      given: `(received, work) -> what then receives`, where it needs the client's own gradient;
        the pass over the examples is then made in odd rounds too. Its `start` gets all that was
        received.

    Returns:
      `Task -> ClientUpdate` that receives an `Asked` and reports a `Told`. The loss that it
      reports in even rounds is that of the received model.
    """
    first = full_gradient() if given is not None else _only(full_gradient(), measuring)
    trains = _only(then, lambda ctx: ~measuring(ctx))
    return phases(first, trains, given=given, anew=False, report=_told)


def _told(said: Report, work: GradientWork, ctx: Context, data: ClientData) -> Report:
    del data
    now, update = measuring(ctx), said.update
    params = tree.where(now, mean_gradient(work), update.params)
    seen = {"loss_sum": work.tally.loss_sum, "loss_count": work.tally.loss_count}
    losses = tree.where(now, seen, {n: said.aux[n] for n in seen})
    measured = jnp.asarray(now, said.weight.dtype)
    told = Told(update._replace(params=params), measured)
    return said._replace(update=told, aux=said.aux | losses)


def _only(client: Client, when: Callable[[Context], Array]) -> Client:
    """No steps in rounds where `when` is false."""

    def build(task: Task) -> ClientUpdate:
        base = client(task)

        def steps(ctx: Context, data: ClientData) -> Any:
            return jnp.where(when(ctx), base.steps(ctx, data), 0)

        return base._replace(steps=steps)

    return build
