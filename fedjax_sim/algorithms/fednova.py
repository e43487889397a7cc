"""FedNova: normalised averaging of clients that do different numbers of steps."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.clients.wrap import normalized, with_report
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def fednova(
    optimizer: Any,
    *,
    momentum: Array | float = 0.0,
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "examples",
) -> Recipe:
    """Average per-step updates, then apply the mean number of steps of them.

    `x <- x - (sum p_i a_i) sum p_i (x - y_i) / a_i`, where a_i is the client's number of
    steps, corrected for local momentum.

    Args:
      optimizer: client optimizer (optax SGD, with `momentum` if it has any).
      momentum: the client optimizer's momentum, for the normaliser.
      batches: how examples become steps.
      weighting: the paper weighs by examples.

    Reference: Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous
      Federated Optimization, 2020, arXiv:2007.07481, equations 6 to 8.
    """
    number("algorithm.momentum", momentum, least=0, below=1)
    client = with_report(local(optimizer, batches, weighting=weighting), normalized(momentum))
    return compose(client, mean(rescale="normalizer"), server_opt(optax.sgd(1.0)))
