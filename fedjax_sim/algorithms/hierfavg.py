"""HierFAVG: edge servers average their clients often, the cloud averages the edges at times."""

from __future__ import annotations

from typing import Any

from fedjax_sim.aggregation.grouped import grouped as mean_by_group
from fedjax_sim.clients.choose import in_group
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.edges import server_edges


@recipe
def hierfavg(
    optimizer: Any,
    *,
    edges: int = 2,
    edge_rounds: int = 2,
    ids: Any = None,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
) -> Recipe:
    """A round is one of the edges: local training, then each edge's mean; see `server.edges`.

    Every `edge_rounds` rounds the cloud takes the mean of the edges by the examples reported to
    them, and all go on from it. With `edge_rounds=1` it is FedAvg. The global model is what the
    cloud would have if the edges met now.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      edges: M.
      edge_rounds: the paper's kappa 2; its kappa 1 are the local steps.
      ids: int `[N]`, each client's edge; client i is at edge `i % edges` by default.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper's is by examples, at the edge and at the cloud.

    Cost: FedAvg's; memory M x P. Only one round in `edge_rounds` needs the way to the cloud.
    Reference: Liu et al., Client-Edge-Cloud Hierarchical Federated Learning, 2019,
      arXiv:1905.06641, algorithm 1. In the paper all clients take part; where some do not, ours
      weighs an edge by what was reported to it since the last meeting.
    """
    updater = server_edges(edges, edge_rounds=edge_rounds, ids=ids)
    client = in_group(local(optimizer, batches, weighting=weighting))
    return compose(client, mean_by_group(edges), updater, groups=edges)
