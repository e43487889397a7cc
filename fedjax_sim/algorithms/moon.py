"""MOON: representations are drawn to the global model's and away from the client's last."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.distill import contrastive
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def moon(
    optimizer: Any,
    *,
    mu: Array | float = 1.0,
    tau: Array | float = 0.5,
    representation: str = "features",
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """FedAvg on `loss - mu log(e^(s_global/tau) / (e^(s_global/tau) + e^(s_own/tau)))`.

    s_global and s_own are the cosines, mean over the batch, of an example's representation under
    the trained model with those under the received model and under the client's model at the end
    of its last round. `mu = 0` is FedAvg, and so is the first round of every client.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      mu: strength, at least 0; the paper takes 1 to 10, by data.
      tau: temperature, above 0.
      representation: `features`, what the last layer is given (`Task.features`), or `outputs`.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples, as the paper.
      server: server optimizer (optax); `sgd(1.0)` is plain averaging.

    Cost: a step is a gradient and two forward passes; a client's row is a model (P and its state);
    FedAvg's bytes. The recorded training loss is the sum.
    Reference: Li, He and Song, Model-Contrastive Federated Learning, 2021, arXiv:2103.16257,
      algorithm 1 (from memory). The paper adds a projection head to the network, whose output is
      compared; ours compares the given network's own representation. There a newcomer's last
      model is the initial one; here it has none, and its term is constant.
    """
    number("algorithm.mu", mu, least=0)
    number("algorithm.tau", tau, above=0)
    base = local(optimizer, batches, weighting=weighting)
    return compose(contrastive(base, mu, tau, representation), mean(), server_opt(server))
