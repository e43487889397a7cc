"""FedLin: local steps along the global gradient."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.linear import shifted
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.exchange import optimizer_step, server_asks


@recipe
def fedlin(
    optimizer: Any,
    *,
    server_rate: Array | float = 1.0,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
) -> Recipe:
    """`y <- y - eta (g_i(y) - g_i(x) + g)`, g the mean of the exact g_i(x); `x <- mean y_i`.

    Two exchanges make one step of the model, and each is a round here: in even rounds (from 0)
    clients measure g_i(x), in odd ones they train. With everyone in every round that is the paper's
    algorithm; else g is the mean over the cohort of the round before.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      server_rate: of the server's step; 1 takes the mean model.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper averages uniformly.

    Cost: no client state; one pass of gradients in every round, local steps in each second one;
      2 P down and P up a round.
    Reference: Mitra, Jaafar, Pappas and Hassani, Linear Convergence in Federated Learning:
      Tackling Client Heterogeneity and Sparse Gradients, 2021, arXiv:2102.07053, algorithm 1
      (FedLin), from memory, without its compression and with one rate for all clients (the
      paper divides each client's by its number of steps).
    """
    server = optax.sgd(server_rate)
    client = shifted(optimizer, batches, weighting=weighting)
    return compose(client, mean(), server_asks(server, optimizer_step(server)))
