"""Local training on a gradient shifted by what was received (FedLin)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from fedjax_sim.clients.anchor import at_model
from fedjax_sim.clients.exchange import Asked, asked_first
from fedjax_sim.clients.sgd import GradientWork, LocalWork, Weighting, local, mean_gradient
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context
from fedjax_sim.data.batching import Batches, ClientData
from fedjax_sim.transforms.correction import add_correction


def shifted(
    optimizer: Any, batches: Batches | None = None, *, weighting: Weighting = "uniform"
) -> Callable[[Task], ClientUpdate]:
    """Train on `g_i(y) - g_i(x) + g` with g the cohort's mean gradient at x (FedLin).

    In even rounds it measures and reports `g_i(x)`; see `clients.exchange`.

    Args:
      optimizer: any optax transformation.
      batches: how examples become steps.
      weighting: see `sgd.weigh`.

    Returns:
      `Task -> ClientUpdate`, stateless, with `received` an `Asked`.
    """
    steer = optax.chain(add_correction(), optax.with_extra_args_support(optimizer))
    base_of = at_model(local(steer, batches, weighting=weighting))

    def given(received: Asked, work: GradientWork) -> Asked:
        shift = tree.sub(received.gradient, mean_gradient(work))
        return Asked(received.model, shift, received.opt)

    def build(task: Task) -> ClientUpdate:
        base = base_of(task)

        def step(
            ctx: Context, t: Array, work: LocalWork, received: Asked, data: ClientData
        ) -> LocalWork:
            steered = work._replace(extra={"correction": received.gradient})
            return base.step(ctx, t, steered, received, data)._replace(extra={})

        return base._replace(step=step)

    return asked_first(build, given=given)
