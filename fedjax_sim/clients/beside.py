"""Clients that train a model of their own beside the shared one, in the same local steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fedjax_sim.clients.kept import Kept, keep, own_model, unbegun
from fedjax_sim.clients.sgd import LocalWork
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import ClientData


class Pair(NamedTuple):
    """Work on two models that see the same batches.

    Attributes:
      shared: what will be reported.
      own: what stays with the client; its feed is that of `shared`.
    """

    shared: LocalWork
    own: LocalWork


def beside(
    shared: Callable[[Task], ClientUpdate], own: Callable[[Task], ClientUpdate]
) -> Callable[[Task], ClientUpdate]:
    """Each local step trains two models on one batch: the received one and the client's own.

    Args:
      shared: a stateless `clients.sgd.local`; its steps and its report are the client's.
      own: another, of as many steps. It starts from the client's own model, or from the received
        one in the client's first round; `anchor`, to which a proximal term pulls, is what was
        received. Its optimizer starts anew each round.

    Returns:
      `Task -> ClientUpdate` with a `Kept` row.

    Cost: two gradients a local step; a row costs P, memory twice `shared`'s.
    """

    def build(task: Task) -> ClientUpdate:
        first, second = shared(task), own(task)

        def start(ctx: Context, received: Model, row: Kept, data: ClientData) -> Pair:
            mine = own_model(row, received)
            return Pair(first.start(ctx, received, (), data), second.start(ctx, mine, (), data))

        def step(ctx: Context, t: Array, work: Pair, received: Model, data: ClientData) -> Pair:
            # With one feed the two gathers of a batch are one.
            mine = work.own._replace(feed=work.shared.feed)
            return Pair(
                first.step(ctx, t, work.shared, received, data),
                second.step(ctx, t, mine, received, data),
            )

        def finish(
            ctx: Context, work: Pair, received: Model, row: Kept, data: ClientData
        ) -> tuple[Report, PyTree]:
            report, _ = first.finish(ctx, work.shared, received, (), data)
            return report, keep(row, work.own.model, first.steps(ctx, data))

        return ClientUpdate(lambda key, model: unbegun(model), first.steps, start, step, finish)

    return build
