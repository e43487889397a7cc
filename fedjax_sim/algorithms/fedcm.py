"""FedCM: every local step leans on the direction that the last round took."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.momentum import guided
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.history import server_direction


@recipe
def fedcm(
    optimizer: Any,
    *,
    alpha: Array | float = 0.1,
    server_rate: Array | float = 1.0,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
) -> Recipe:
    """Client-level momentum: local steps follow `v = alpha g_i(y) + (1 - alpha) m`.

    With d_i = x - y_i after K steps `y <- y - eta v`, the server does
    `m <- mean_i d_i / (eta K)` and `x <- x - server_rate mean_i d_i`; m = 0 before round 0.
    `alpha = 1` is FedAvg. A fixed point is one of FedAvg at the rate `alpha eta`.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers; it gets v.
      alpha: share of the fresh gradient, in (0, 1]; the paper's default is 0.1.
      server_rate: learning rate of the server.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper averages the round's clients uniformly.

    Cost: as FedAvg; no client row; twice FedAvg's bytes travel down, one number more up.
    Reference: Xu, Wang, Wang and Yao, FedCM: Federated Learning with Client-level Momentum, 2021,
      arXiv:2106.10874, algorithm 2 (from memory). Ours sums the rates of the steps instead of
      `eta K`, which is the same where clients take equally many steps, and where they do not
      makes m the mean over all local steps. The paper's server steps on m; ours on the mean
      decrease, so that `server_rate = 1` is averaging.
    """
    number("algorithm.alpha", alpha, above=0, most=1)
    client = guided(optimizer, alpha, batches, weighting=weighting)
    return compose(client, mean(), server_direction(optax.sgd(server_rate)))
