"""SCAFFOLD: control variates against client drift."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.control import controlled
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.control import server_control


@recipe
def scaffold(
    optimizer: Any,
    *,
    server_rate: Array | float = 1.0,
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "uniform",
) -> Recipe:
    """Correct every local gradient by `c - c_i`, so that local steps follow the global loss.

    Client rows hold c_i (P each); twice FedAvg's bytes travel.

    Reference: Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging, 2019,
      arXiv:1910.06378, algorithm 1, option II (see `clients.control` for how c_i is found).
    """
    client = controlled(optimizer, batches, weighting=weighting)
    return compose(client, mean(), server_control(optax.sgd(server_rate)))
