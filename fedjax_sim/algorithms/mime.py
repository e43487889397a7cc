"""Mime and MimeLite: clients that move as a central optimizer would."""

from __future__ import annotations

from typing import Any

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.mime import mimicking, mimicking_lite
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.exchange import server_asks, server_statistics, statistics_step


@recipe
def mime(
    optimizer: Any,
    *,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
) -> Recipe:
    """`y <- y - U(g_i(y; b) - g_i(x; b) + c, s)`, c the mean of the exact g_i(x), b a batch.

    U is a step of the optimizer from the server's statistics s, which stay as they are while
    clients train; then `x <- mean y_i` and `s <- V(c, s)`. As c is known only after everyone
    told its gradient, two exchanges make one step of the model, each a round here: in even
    rounds (from 0) clients measure g_i(x), in odd ones they train. With plain SGD and full batches
    it is `fedlin`.

    Args:
      optimizer: base optimizer (optax), or a function of named numbers; no schedule by round.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper averages uniformly.

    Cost: no client state; one pass of gradients in even rounds, two gradients a local step in odd
      ones; 2 P and s down and P up a round.
    Reference: Karimireddy et al., Mime: Mimicking Centralized Stochastic Algorithms in Federated
      Learning, 2020, arXiv:2008.03606, algorithm 1, from memory. Its c comes from the clients
      that train, ours from the cohort of the round before (the same with everyone in every
      round). Its U leaves moments as they are; optax's step takes the local gradient into them,
      for that one step, and momentum is optax's: `g + beta m`, not `(1 - beta) g + beta m`.
    """
    client = mimicking(optimizer, batches, weighting=weighting)
    return compose(client, mean(), server_asks(optimizer, statistics_step(optimizer)))


@recipe
def mimelite(
    optimizer: Any,
    *,
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "uniform",
) -> Recipe:
    """Mime without the correction: `y <- y - U(g_i(y; b), s)`, in one exchange.

    Each client also tells its exact gradient at x, whose mean moves the statistics:
    `s <- V(mean g_i(x), s)`. With plain SGD it is FedAvg.

    Args:
      optimizer: base optimizer (optax), or a function of named numbers; no schedule by round.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper averages uniformly.

    Cost: no client state; one pass of gradients more than FedAvg; P and s down, 2 P up.
    Reference: as `mime`; U and V differ alike.
    """
    client = mimicking_lite(optimizer, batches, weighting=weighting)
    return compose(client, mean(), server_statistics(optimizer))
