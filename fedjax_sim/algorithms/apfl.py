"""APFL: each client uses a mean of the global model and its own, in a share that it finds."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.interpolate import interpolating, model_in_use
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def apfl(
    optimizer: Any,
    *,
    alpha: Array | float = 0.1,
    alpha_rate: Array | float = 0.1,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """FedAvg, and beside it v_i such that `m_i = alpha_i v_i + (1 - alpha_i) x` suits the client.

    Local steps, w from the received model: `w <- w - opt(grad f_i(w))`,
    `v <- v - opt(alpha grad f_i(m))`,
    `alpha <- clip(alpha - alpha_rate <v - w, grad f_i(m)>, 0, 1)` with
    `m = alpha v + (1 - alpha) w`. The global model is FedAvg's to the last bit; with
    `alpha_rate = 0` and `alpha = 0` it is the personal one, with `alpha = 1` every v_i trains
    alone.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers; both models'.
      alpha: every client's share at first, in [0, 1].
      alpha_rate: learning rate of the share; 0 keeps it.
      batches: made from `epochs, steps, batch_size, last, shuffle`; the same for both models.
      weighting: the paper's mean is uniform.
      server: server optimizer (optax).

    Cost: two gradients a local step; a row costs P + 1 number; FedAvg's traffic. The share is
      recorded a client as `alpha`.
    Reference: Deng, Kamani, Mahdavi, Adaptive Personalized Federated Learning, 2020,
      arXiv:2003.13461, algorithm 1, and its equation 10 for the share (from memory). The share
      moves in every local step with a rate of its own; the paper takes the models' rate, and the
      authors' code moves it once a round and shrinks it by 0.02. v_i begins at the first model
      that the client receives, and a client that never trained uses the global model.
    """
    number("algorithm.alpha", alpha, least=0, most=1)
    number("algorithm.alpha_rate", alpha_rate, least=0)
    return compose(
        interpolating(optimizer, alpha, alpha_rate, batches, weighting=weighting),
        mean(),
        server_opt(server),
        model_of=lambda ctx, state, row, data: model_in_use(row, state.model),
    )
