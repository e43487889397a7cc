"""FedProx: local training tied to the global model."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt
from fedjax_sim.transforms.correction import add_proximal


@recipe
def fedprox(
    optimizer: Any,
    *,
    mu: Array | float = 0.01,
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "examples",
) -> Recipe:
    """FedAvg whose clients minimise `f_i(y) + mu/2 |y - x|^2`, with `mu = 0` FedAvg itself.

    Partial work (`Member.work`) is kept, as the paper asks; dropping stragglers is a
    sampler's choice.

    Reference: Li et al., Federated Optimization in Heterogeneous Networks, 2018,
      arXiv:1812.06127, algorithm 2. The paper samples by size and averages uniformly; ours
      samples uniformly and weighs by examples unless told otherwise.
    """
    number("algorithm.mu", mu, least=0)
    client = local(optax.chain(add_proximal(mu), optimizer), batches, weighting=weighting)
    return compose(client, mean(), server_opt(optax.sgd(1.0)))
