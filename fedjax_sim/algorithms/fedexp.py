"""FedExP: the server extrapolates, the further the more its clients disagree."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.extrapolate import extrapolated
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def fedexp(
    optimizer: Any,
    *,
    epsilon: Array | float = 0.001,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """FedAvg with an adaptive server rate, as in projections onto convex sets.

    With d_i = x - y_i and d their mean over the round's clients, `x <- x - eta d`,
    `eta = max(1, mean_i |d_i|^2 / (2 (|d|^2 + epsilon)))`. As epsilon grows it is FedAvg.
    The rate is recorded as `server_rate`.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      epsilon: at least 0; from half the mean of |d_i|^2 on, nothing is stretched.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper averages the round's clients uniformly; with other weights both means
        are weighted, which is its theory's case of a weighted objective.
      server: server optimizer (optax) on the stretched mean; the paper's is `sgd(1.0)`.

    Cost: as FedAvg, and one number a client.
    Reference: Jhunjhunwala, Wang and Joshi, FedExP: Speeding Up Federated Averaging via
      Extrapolation, 2023, arXiv:2301.09604, algorithm 1 (from memory). The paper evaluates the
      mean of the last two rounds' models, since the last one swings; ours the last.
    """
    number("algorithm.epsilon", epsilon, least=0)
    client = local(optimizer, batches, weighting=weighting)
    return compose(client, extrapolated(epsilon), server_opt(server))
