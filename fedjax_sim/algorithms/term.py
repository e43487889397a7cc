"""TERM: tilted empirical risk over clients."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.tilted import tilted
from fedjax_sim.clients.fair import TILT, tilting
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def term(
    optimizer: Any,
    *,
    t: Array | float = 1.0,
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "uniform",
    server: Any = optax.sgd(1.0),  # noqa: B008
) -> Recipe:
    """FedAvg with weights `w_k exp(t F_k(x))`: descent on `log(sum w_k exp(t F_k)) / t`.

    F_k is the client's loss at the received model. t = 0 is FedAvg; t to infinity minimises the
    largest loss; t < 0 plays down clients whose loss is high, outliers among them.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      t: the tilt, in units of one over the loss.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: of the clients before the tilt; the paper weighs groups equally.
      server: server optimizer (optax); `sgd(1.0)` is plain averaging.

    Cost: as FedAvg and one forward pass over each client's examples; memory lanes x P.
    Reference: Li, Beirami, Sanjabi and Smith, Tilted Empirical Risk Minimization, 2020,
      arXiv:2007.01162, lemma 1 and algorithm 1, groups being clients. The weights are normalised
      over the round's cohort and not by a running estimate over rounds (their algorithm 2).
    """
    client = tilting(local(optimizer, batches, weighting=weighting), t)
    return compose(client, tilted(TILT), server_opt(server))
