"""The two baselines that every paper prints: all data in one place, and everyone alone."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.aggregation.single import take_one
from fedjax_sim.clients.personal import alone, pooled
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.hold import server_holds
from fedjax_sim.server.optimizer import server_opt


@recipe
def centralized(
    optimizer: Any,
    *,
    batches: Batches = Batches(),  # noqa: B008
) -> Recipe:
    """Plain training on the union of all clients' data; the upper end of most comparisons.

    A round is `epochs` passes over everything; the optimizer goes on from round to round.
    The cohort is one (the data's owner), whatever is asked for.
    """
    return compose(pooled(optimizer, batches), take_one(), server_holds(optimizer), cohort=1)


@recipe
def local_only(
    optimizer: Any,
    *,
    batches: Batches = Batches(),  # noqa: B008
) -> Recipe:
    """Every client trains its own model and nobody talks; the other end.

    All start from the same model. A client trains in the rounds in which it is sampled.
    No global model exists, so only client metrics are recorded.
    """
    return compose(
        alone(optimizer, batches),
        mean(),
        server_opt(optax.sgd(1.0)),
        model_of=lambda ctx, state, row, data: row.model,
        shared=False,
    )
