"""A model fitted to one client before it is used: training on the client's own window alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from fedjax_sim.clients.sgd import LocalWork, local
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Context, Model
from fedjax_sim.data.batching import Batches, ClientData


def adapt(
    task: Task, optimizer: Any, batches: Batches | None = None
) -> Callable[[Context, Model, ClientData], Model]:
    """Local training without a report: the personal model of a client, for a `model_of`.

    `y <- y - optimizer(grad f_i(y))`, from the model that is given. The steps are those of
    `clients.sgd.local`, draws included. The loop over them is in here, because this is the making
    of a model that is then evaluated: the lane loop runs it once a client, in `start`.

    Args:
      task: gives the loss.
      optimizer: any optax transformation; it starts anew for every client.
      batches: how the client's examples become steps.

    Returns:
      `(ctx, model, data) -> Model`, in the types of `model`; `data` is the client's training
      window, and one without a batch leaves the model as it is. `ctx.member.work` counts as in
      training; evaluation sets it to 1.

    Cost: the gradients of `batches` for each client that is evaluated; memory a model and an
      optimizer state a lane, and each lane waits for the slowest of them.
    """
    client = local(optimizer, batches)(task)

    def adapted(ctx: Context, model: Model, data: ClientData) -> Model:
        def step(t: Array, work: LocalWork) -> LocalWork:
            return tree.as_before(client.step(ctx, t, work, model, data), work)

        begun = tree.strong(client.start(ctx, model, (), data))
        return jax.lax.fori_loop(0, client.steps(ctx, data), step, begun).model

    return adapted
