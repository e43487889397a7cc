"""Clients that train low-rank factors beside a frozen model."""

from __future__ import annotations

from collections.abc import Callable

from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Model, PyTree, Report
from fedjax_sim.data.batching import ClientData
from fedjax_sim.tasks.factored import evaluate
from fedjax_sim.tasks.lora import Adapted


def adapting(
    client: Callable[[Task], ClientUpdate], alpha: Array | float
) -> Callable[[Task], ClientUpdate]:
    """Train the factors alone; the report is their decrease.

    Args:
      client: local training that receives a `Model`, such as `local`.
      alpha: factors are scaled by `alpha / r`.

    Returns:
      `Task -> ClientUpdate` with `received` an `Adapted`.

    Cost: see `tasks.factored.evaluate`; kernels that are not matrices are merged at each step.
    """

    def build(task: Task) -> ClientUpdate:
        def on(base: PyTree) -> ClientUpdate:
            def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
                def at(params: PyTree) -> tuple[Array, PyTree]:
                    return task.loss(key, Model(params, model.state), batch)

                return evaluate(at, base, model.params, alpha)

            return client(task._replace(loss=loss))

        def start(ctx: Context, received: Adapted, row: PyTree, data: ClientData) -> PyTree:
            return on(received.base).start(ctx, received.model, row, data)

        def step(
            ctx: Context, t: Array, work: PyTree, received: Adapted, data: ClientData
        ) -> PyTree:
            return on(received.base).step(ctx, t, work, received.model, data)

        def finish(
            ctx: Context, work: PyTree, received: Adapted, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            return on(received.base).finish(ctx, work, received.model, row, data)

        return client(task)._replace(start=start, step=step, finish=finish)

    return build
