"""LG-FedAvg: local representations below a global head."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.algorithms.fedper import kept_apart
from fedjax_sim.clients.keep import of_params
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.parts import Rule
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, recipe


@recipe
def lg_fedavg(
    optimizer: Any,
    *,
    personal: Rule = "body",
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """Train the whole model, average the head, keep the body.

    `fedper` with the parts changed over: `h <- sum_i n_i h_i / sum_i n_i`, and b_i waits in the
    client's row. `personal="head"` is `fedper`.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      personal: what clients keep; see `core.parts.Rule`.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples, as in the paper.
      server: optimizer of the shared part.

    Cost: no pass more than FedAvg; a row costs the body, which is most of the model, and a lane
      carries it twice; only the head goes down and up.
    Reference: Liang, Liu, Ziyin, Allen, Auerbach, Brent, Salakhutdinov, Morency, Think Locally, Act
      Globally: Federated Learning with Local and Global Representations, 2020, arXiv:2001.01523,
      algorithm 1. The paper adds self-supervised and adversarial losses to some
      representations and begins from models trained by FedAvg; its ensemble of all
      clients for a new one, whose data nobody knows, is not here: a client that never took
      part has the first body.
    """
    return kept_apart(local(optimizer, batches, weighting=weighting), of_params(personal), server)
