"""FedSplit: Peaceman-Rachford splitting."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.dual import dual, reflected
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.control import server_share


@recipe
def fedsplit(
    optimizer: Any,
    *,
    strength: Array | float = 0.1,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
) -> Recipe:
    """`z_i <- z_i + 2 (prox_i(2 x - z_i) - x)` and `x = mean z_i`, over all clients.

    `prox_i(u)` minimises `f_i(y) + strength/2 |y - u|^2` by local steps from x; x is right at
    rest, however few they are.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      strength: one over the paper's proximal step s, above 0.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: uniform, or x is not the mean of all z_i.

    Cost: client rows hold z_i (P each); as many bytes travel as with FedAvg.
    Reference: Pathak and Wainwright, FedSplit: An Algorithmic Framework for Fast Federated
      Optimization, 2020, arXiv:2005.05238, algorithm 1, from memory. The paper has everyone in
      every round; here clients who are absent keep their z_i.
    """
    number("algorithm.strength", strength, above=0)
    client = dual(optimizer, reflected(strength), strength, batches, weighting=weighting)
    return compose(client, mean(), server_share(optax.sgd(1.0)))
