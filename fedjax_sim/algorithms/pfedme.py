"""pFedMe: personal models by Moreau envelopes."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.kept import own_model
from fedjax_sim.clients.moreau import moreau
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def pfedme(
    optimizer: Any,
    *,
    penalty: Array | float = 1.0,
    rate: Array | float = 0.5,
    server_rate: Array | float = 1.0,
    inner: int = 5,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
) -> Recipe:
    """Each client's theta_i is near its own optimum and near the shared w; w follows the thetas.

    A local step: `theta ~ argmin f_i(theta; batch) + lambda/2 |theta - w|^2` by `inner` steps of
    the client optimizer, `w <- w - rate lambda (w - theta)`. The server:
    `x <- (1 - beta) x + beta mean(w_i)`. The personal model is the last theta_i.

    Args:
      optimizer: optimizer of theta (optax), or a function of named numbers; with SGD its rate
        times (lambda + the curvature) must stay below 2.
      penalty: lambda; the paper takes 15 to 30 with rates of theta below 0.1.
      rate: eta, of w; `rate lambda` is the share of the way to theta, 1 being theta itself and
        local SGD. In the paper 0.005 to 0.02.
      server_rate: beta; the paper takes 1 to 4.
      inner: K; 5 in the paper's tables.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: uniform in the paper; the authors' code weighs by examples.

    Cost: K gradients a local step; a row costs P; FedAvg's traffic.
    Reference: Dinh, Tran, Nguyen, Personalized Federated Learning with Moreau Envelopes, 2020,
      arXiv:2006.08848, algorithm 1. As in the authors' code theta goes on from the last batch's.
      Their code lets all clients train in every round and averages some; here who is not in the
      cohort keeps its last theta_i, and one that never trained uses the global model.
    """
    number("algorithm.penalty", penalty, above=0)
    number("algorithm.rate", rate, above=0)
    return compose(
        moreau(optimizer, penalty, rate, inner, batches, weighting=weighting),
        mean(),
        server_opt(optax.sgd(server_rate)),
        model_of=lambda ctx, state, row, data: own_model(row, state.model),
    )
