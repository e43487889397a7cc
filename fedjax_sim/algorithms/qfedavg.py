"""q-FedAvg: fairness by reweighing with a power of the loss."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.tilted import tilted
from fedjax_sim.clients.fair import STRETCH, TILT, powered
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt

Number = Array | float


@recipe
def qfedavg(
    optimizer: Any,
    *,
    q: Number = 1.0,
    rate: Number = 0.1,
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "uniform",
    server: Any = optax.sgd(1.0),  # noqa: B008
) -> Recipe:
    """Clients with a higher loss count more: FedAvg for `sum_k w_k F_k(x)^(q+1) / (q+1)`.

    With u_k = x - y_k after local training and F_k the loss at x, `L = 1 / rate`,
    `D_k = L F_k^q u_k`, `h_k = q F_k^(q-1) |L u_k|^2 + L F_k^q`:
    `x <- x - sum w_k D_k / sum w_k h_k`. q = 0 is uniform FedAvg; as q grows the worst-off client
    decides. The `h_k` bound the curvature of F^(q+1), so that a rate good for q = 0 is good for
    every q.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      q: at least 0.
      rate: the learning rate of the local steps; `1 / rate` is the paper's Lipschitz estimate L.
        Experiment files take it from `[client]`.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper averages the sampled clients uniformly.
      server: server optimizer (optax); the paper's is `sgd(1.0)`.

    Cost: as FedAvg and one forward pass over each client's examples; memory lanes x P.
    Reference: Li, Sanjabi, Beirami and Smith, Fair Resource Allocation in Federated Learning,
      2019, arXiv:1905.10497, algorithm 2. Clients are sampled uniformly and not by their size;
      a loss counts as 1e-10 at least.
    """
    number("algorithm.q", q, least=0)
    number("algorithm.rate", rate, above=0)
    client = powered(local(optimizer, batches, weighting=weighting), q, 1 / rate)
    return compose(client, tilted(TILT, stretch=STRETCH), server_opt(server))
