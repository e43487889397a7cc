"""FedMGDA+: multiple-gradient descent over clients."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.collect import collect
from fedjax_sim.aggregation.min_norm import min_norm
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def fedmgda(
    optimizer: Any,
    *,
    epsilon: Array | float = 0.1,
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "uniform",
    server: Any = optax.sgd(0.1),  # noqa: B008
) -> Recipe:
    """Step along the shortest mixture of the clients' directions, near their weights.

    `d = sum l_k u_k / |u_k|`, l the minimiser of `|d|^2` with `|l_k - w_k| <= epsilon`;
    `x <- x - server(d)`. epsilon = 0 is the mean of directions; epsilon = 1 moves only where no
    client of the cohort loses by it, and stops at Pareto-stationary points.

    A client's length does not count: the server's rate alone sets the step, at most that long,
    and has to fall for the model to come to rest.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      epsilon: how far a client's part may be from its weight, in [0, 1].
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the centre of the mixtures.
      server: server optimizer (optax), whose rate is the length of a step.

    Cost: K x P memory; `K^2 P` multiply-adds a round.
    Reference: Hu, Shaloudegi, Zhang and Yu, Federated Learning Meets Multi-objective
      Optimization, 2020, arXiv:2006.11489, algorithm 1 (FedMGDA+).
    """
    number("algorithm.epsilon", epsilon, least=0, most=1)
    client = local(optimizer, batches, weighting=weighting)
    return compose(client, collect(min_norm(epsilon)), server_opt(server))
