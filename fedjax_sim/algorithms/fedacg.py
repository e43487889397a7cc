"""FedACG: clients start where the server's momentum is about to be."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.history import server_lookahead
from fedjax_sim.transforms.correction import add_proximal


@recipe
def fedacg(
    optimizer: Any,
    *,
    momentum: Array | float = 0.85,
    beta: Array | float = 0.01,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
) -> Recipe:
    """Accelerated client gradient: local training from, and tied to, the look-ahead model.

    The server sends `z = x - momentum m`; clients minimise `f_i(y) + beta/2 |y - z|^2` from z;
    with d the mean of z - y_i, `m <- momentum m + d` and `x <- x - m`. At `momentum = 0` this is
    FedProx, and at `beta = 0` too FedAvg.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      momentum: lambda of the paper, in [0, 1).
      beta: strength of the tie, at least 0.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper averages the round's clients uniformly.

    Cost: as FedAvg, bytes included: one model travels each way, and no client keeps a row.
    Reference: Kim, Kim and Han, Communication-Efficient Federated Learning with Accelerated
      Client Gradient, 2022, arXiv:2201.03172, algorithm 1 (from memory, and held against the
      authors' published server code).
    """
    number("algorithm.momentum", momentum, least=0, below=1)
    number("algorithm.beta", beta, least=0)
    tied = optax.chain(add_proximal(beta), optimizer)
    client = local(tied, batches, weighting=weighting)
    return compose(client, mean(), server_lookahead(momentum))
