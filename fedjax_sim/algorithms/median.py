"""FedAvg with a coordinate-wise median in place of the mean."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.collect import collect
from fedjax_sim.aggregation.robust import coordinate_median
from fedjax_sim.clients.sgd import local
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def median(
    optimizer: Any,
    *,
    batches: Batches = Batches(),  # noqa: B008
    server: Any = optax.sgd(1.0),  # noqa: B008
) -> Recipe:
    """The median of every coordinate of the clients' updates, unweighted.

    Cost: K x P memory (it must see all updates at once).
    Reference: Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal
      Statistical Rates, 2018, arXiv:1803.01498, algorithm 1; ours takes local steps where
      the paper takes one gradient.
    """
    client = local(optimizer, batches, weighting="uniform")
    return compose(client, collect(coordinate_median()), server_opt(server))
