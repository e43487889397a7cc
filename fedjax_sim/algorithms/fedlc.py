"""FedLC: logits are calibrated by how often a client has seen each label."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.distill import calibrated
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def fedlc(
    optimizer: Any,
    *,
    tau: Array | float = 1.0,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """FedAvg on the loss of calibrated logits `f_c(x) - tau n_c^(-1/4)`.

    n_c is the number of the client's examples with label c. Rare labels must be learned with a
    margin, and labels that a client lacks are not pushed down by its softmax. `tau = 0` is FedAvg.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      tau: strength of the calibration, at least 0.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples, as FedAvg.
      server: server optimizer (optax); `sgd(1.0)` is plain averaging.

    Cost: as FedAvg, bytes included; a count of the client's labels at its start. For classification
    with one label an example. The recorded training loss is the calibrated one.
    Reference: Zhang et al., Federated Learning with Label Distribution Skew via Logits Calibration,
      2022, arXiv:2209.00189, section 4 (from memory). The sum in our softmax runs over all
      labels, as in published code, so that it stays a softmax; a label that is missing counts as
      n_c = 1e-8, a margin of 100 tau.
    """
    number("algorithm.tau", tau, least=0)
    client = calibrated(local(optimizer, batches, weighting=weighting), tau)
    return compose(client, mean(), server_opt(server))
