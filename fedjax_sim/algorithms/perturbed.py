"""Federated averaging that shakes the model where it no longer moves."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.escape import server_perturbed


@recipe
def perturbed(
    optimizer: Any,
    *,
    radius: Array | float = 1e-2,
    threshold: Array | float = 1e-3,
    wait: Array | float = 50.0,
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008
) -> Recipe:
    """FedAvg that adds a random vector of a ball where the aggregated update is small.

    With `steps=1, batch_size=None` and SGD clients it is perturbed gradient descent; with
    `radius=0` it is FedAvg. Radius and threshold belong to the problem: see
    `server.escape.server_perturbed` for their units.

    Example:
      >>> sorted(perturbed(lambda lr: optax.sgd(lr), lr=0.1).hyper)
      ['lr', 'radius', 'threshold', 'wait']

    Reference: Jin et al., How to Escape Saddle Points Efficiently, 2017, arXiv:1703.00887,
      algorithm 2; ours also takes local steps, and goes on where the paper ends.
    """
    escaping = server_perturbed(server, radius=radius, threshold=threshold, wait=wait)
    return compose(local(optimizer, batches, weighting=weighting), mean(), escaping)
