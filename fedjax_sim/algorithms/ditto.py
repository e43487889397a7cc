"""Ditto: a personal model tied to the global one, which is trained as if there were none."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.beside import beside
from fedjax_sim.clients.kept import own_model
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt
from fedjax_sim.transforms.correction import add_proximal


@recipe
def ditto(
    optimizer: Any,
    *,
    penalty: Array | float = 1.0,
    personal: Any = None,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """FedAvg, and beside it `v_i ~ argmin f_i(v) + lambda/2 |v - x|^2` on each client.

    Local steps `v <- v - opt(grad f_i(v) + lambda (v - x))` from the client's last v_i, x being
    the received model, and FedAvg's own steps from x. The global model is FedAvg's to the last
    bit. `lambda = 0` trains alone; a large one gives the global model back.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      penalty: lambda; the paper tries 0.05, 0.1, 0.2, 1 and 2. Times the rate it must stay below 2.
      personal: optimizer of v (optax); the client's by default.
      batches: made from `epochs, steps, batch_size, last, shuffle`; the same for both models.
      weighting: by examples, as FedAvg.
      server: server optimizer (optax).

    Cost: two gradients a local step; a row costs P; FedAvg's traffic.
    Reference: Li, Hu, Beirami, Smith, Ditto: Fair and Robust Federated Learning Through
      Personalization, 2020, arXiv:2012.04221, algorithm 1 with FedAvg as the solver of the
      global problem. The paper's s steps of v and r of x may differ; here they are the same, on
      the same batches. Its v_i begin at x of round 0; here at the first x that the client
      receives, and a client that never trained uses the global model.
    """
    number("algorithm.penalty", penalty, least=0)
    tied = optax.chain(add_proximal(penalty), optimizer if personal is None else personal)
    client = beside(local(optimizer, batches, weighting=weighting), local(tied, batches))
    return compose(
        client,
        mean(),
        server_opt(server),
        model_of=lambda ctx, state, row, data: own_model(row, state.model),
    )
