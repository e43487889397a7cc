"""FedBN: every client has normalisations of its own."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.algorithms.fedper import kept_apart
from fedjax_sim.clients.norms import of_norms
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.parts import Rule
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, recipe


@recipe
def fedbn(
    optimizer: Any,
    *,
    personal: Rule = "norms",
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """Train the whole model, average all but the normalisations, which stay with their clients.

    `fedper` with the scales and biases of the normalisations, and the running statistics of batch
    norms, for the personal part. With group or layer norm only scales and biases stay. A client
    that never took part has the first ones, and where few of many clients meet in a round, those of
    the others age while the shared weights move on. The policy `batch_norm(fedavg(...), "local")`
    differs in that clients also report how theirs moved: the server then has a mean of
    them, from which newcomers start and with which the global model is evaluated.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      personal: what clients keep besides statistics; see `core.parts.Rule`.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples.
      server: optimizer of the shared part.

    Cost: no pass more than FedAvg; a row costs 2 to 4 numbers a channel; the shared leaves alone go
      down and up. Refused for a model without normalisations.
    Reference: Li, Jiang, Zhang, Kamp, Dou, FedBN: Federated Learning on Non-IID Features via Local
      Batch Normalization, 2021, arXiv:2102.07623, algorithm 1. The paper's clients all take part
      in each round, and weigh alike.
    """
    return kept_apart(local(optimizer, batches, weighting=weighting), of_norms(personal), server)
