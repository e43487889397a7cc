"""FedALA: clients take of the shared model what their own examples ask for."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.blend import blending
from fedjax_sim.clients.kept import own_model
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.checks import integer, number
from fedjax_sim.core.parts import Rule
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def fedala(
    optimizer: Any,
    *,
    blended: Rule = "head",
    weight_rate: Array | float = 1.0,
    weight_epochs: int = 1,
    share: Array | float = 0.8,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """FedAvg whose clients begin with `own + W (shared - own)` in the blended layers.

    W, in [0, 1] for each number, is learned first:
    `W <- clip(W - eta grad f_i(blend) (shared - own), 0, 1)`; layers that are not blended are the
    shared model's. The personal model is the client's last one. With `weight_rate = 0` W stays 1:
    the global model is FedAvg's.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      blended: which layers; `head` (the last one, the paper's p = 1), or see `core.parts.Rule`.
      weight_rate: eta of W.
      weight_epochs: passes for W a round.
      share: of each pass that is made, in (0, 1]: a new random part of the examples a round.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples, as FedAvg.
      server: server optimizer (optax).

    Cost: `weight_epochs share` passes of gradients more; a row is a model and the W of the blended
      layers; FedAvg's traffic.
    Reference: Zhang, Hua, Wang, Song, Xue, Ma, Guan, FedALA: Adaptive Local Aggregation for
      Personalized Federated Learning, 2022, arXiv:2212.01197, algorithm 1, from memory. The paper
      learns W until it settles when a client first can, and then for one pass a round; here it is
      `weight_epochs` passes in every round.
    """
    integer("algorithm.weight_epochs", weight_epochs, least=1)
    number("algorithm.weight_rate", weight_rate, least=0)
    number("algorithm.share", share, above=0, most=1)
    passes = Batches(weight_epochs, None, batches.size, "partial", batches.shuffle)
    client = blending(
        optimizer, blended, weight_rate, share, batches, passes=passes, weighting=weighting
    )
    return compose(
        client,
        mean(),
        server_opt(server),
        model_of=lambda ctx, state, row, data: own_model(row.kept, state.model),
    )
