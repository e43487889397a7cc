"""FedNTD: distillation of what the global model says of the labels that are not true."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.distill import not_true
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def fedntd(
    optimizer: Any,
    *,
    beta: Array | float = 1.0,
    tau: Array | float = 1.0,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """FedAvg on `loss + beta tau^2 KL(q_global || q)` over the not-true labels.

    q and q_global are softmaxes, of temperature tau and without the example's own label, of the
    trained and of the received model: what a client's data do not speak of is not forgotten.
    `beta = 0` is FedAvg.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      beta: strength, at least 0.
      tau: temperature, above 0.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples, as FedAvg.
      server: server optimizer (optax); `sgd(1.0)` is plain averaging.

    Cost: a step is a gradient and one forward pass of the received model; no row, FedAvg's bytes.
    For classification with one label an example. The recorded training loss is the sum.
    Reference: Lee, Jeong, Shin, Bae and Yun, Preservation of the Global Knowledge by Not-True
      Distillation in Federated Learning, 2021, arXiv:2106.03097, equations 3 to 5 (from memory;
      the factor tau^2 is that of the authors' code). The received model is in evaluation mode.
    """
    number("algorithm.beta", beta, least=0)
    number("algorithm.tau", tau, above=0)
    client = not_true(local(optimizer, batches, weighting=weighting), beta, tau)
    return compose(client, mean(), server_opt(server))
