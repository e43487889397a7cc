"""HypCluster: M hypotheses, and every client with the one that suits it."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.algorithms.ifca import choosing
from fedjax_sim.clients.choose import at_random_first
from fedjax_sim.clients.phases import best_first
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import integer
from fedjax_sim.core.types import Array, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, recipe
from fedjax_sim.server.many import server_many


@recipe
def hypcluster(
    optimizer: Any,
    *,
    groups: int = 2,
    warmup: int = 1,
    start: str | Model = "fresh",
    spread: Array | float = 0.1,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """Assign clients to the hypothesis of lowest loss, train it on them, weighted by examples.

    In the first `warmup` rounds clients are assigned at random, so that each hypothesis begins
    with a random part of the cohort: the paper's random first assignment. From then on it is
    `ifca` with its means weighted by examples; `warmup=0, weighting="uniform"` is `ifca`, and
    `groups=1` FedAvg.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      groups: M, the paper's q.
      warmup: rounds of random assignment.
      start: see `ifca`.
      spread: see `ifca`.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper minimises the mean over all examples.
      server: optimizer of each group's model, with a state a group.

    Cost: as `ifca`.
    Reference: Mansour et al., Three Approaches for Personalization with Applications to
      Federated Learning, 2020, arXiv:2002.10619, algorithm HypCluster (section 3.2). The paper
      leaves open how the first hypotheses are made from a model of sampled clients; here they are
      drawn apart.
    """
    integer("algorithm.warmup", warmup, least=0)
    client = best_first(local(optimizer, batches, weighting=weighting))
    client = at_random_first(client, groups, warmup)
    updater = server_many(server, groups, start=start, spread=spread)
    return choosing(client, groups, updater)
