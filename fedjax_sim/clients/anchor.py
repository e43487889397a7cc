"""The exact gradient of a client's loss at the received model, as a first phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedjax_sim.clients.sgd import gradient
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, PyTree, Report
from fedjax_sim.data.batching import WHOLE, Batches, ClientData

Client = Callable[[Task], ClientUpdate]


def at_model(client: Client) -> Client:
    """A client that receives a `Model`, on the `.model` of what is received."""

    def build(task: Task) -> ClientUpdate:
        base = client(task)

        def start(ctx: Context, received: Any, row: PyTree, data: ClientData) -> PyTree:
            return base.start(ctx, received.model, row, data)

        def step(ctx: Context, t: Array, work: PyTree, received: Any, data: ClientData) -> PyTree:
            return base.step(ctx, t, work, received.model, data)

        def finish(
            ctx: Context, work: PyTree, received: Any, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            return base.finish(ctx, work, received.model, row, data)

        return base._replace(start=start, step=step, finish=finish)

    return build


def full_gradient(batches: Batches | None = None) -> Client:
    """A first phase for `phases`: sum the gradient at `received.model` over all own examples.

    A straggler does its whole pass too: what it measures is exact.

    Args:
      batches: how the pass takes the examples; at most 100 at a time by default.

    Returns:
      `Task -> ClientUpdate` that receives what has a `.model`; its work is a `GradientWork`.

    Cost: one pass of gradients over the examples; P carried.
    """
    rule = batches or WHOLE
    client = at_model(gradient(rule))

    def steps(ctx: Context, data: ClientData) -> Array:
        del ctx
        return rule.count(data.size, data.longest)

    return lambda task: client(task)._replace(steps=steps)
