"""Federated averaging and its server optimizers."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt

Number = Array | float


@recipe
def fedavg(
    optimizer: Any,
    *,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """Federated averaging: the mean of the clients' locally trained models.

    `x <- x - server(sum_i w_i (x - y_i) / sum_i w_i)`, y_i after local training from x.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper weighs by examples.
      server: server optimizer (optax); `sgd(1.0)` is plain averaging.

    Cost: K clients x S steps of a gradient; memory lanes x P.
    Reference: McMahan et al., Communication-Efficient Learning of Deep Networks from
      Decentralized Data, 2016, arXiv:1602.05629, algorithm 1.
    """
    return compose(local(optimizer, batches, weighting=weighting), mean(), server_opt(server))


@recipe
def fedavgm(
    optimizer: Any,
    *,
    server_rate: Number = 1.0,
    server_momentum: Number = 0.9,
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "examples",
) -> Recipe:
    """FedAvg with heavy-ball momentum at the server: `v <- beta v + delta; x <- x - rate v`.

    Reference: Hsu et al., Measuring the Effects of Non-Identical Data Distribution, 2019,
      arXiv:1909.06335, section 4.3.
    """
    server = server_opt(optax.sgd(server_rate, momentum=server_momentum))
    return compose(local(optimizer, batches, weighting=weighting), mean(), server)


@recipe
def fedadam(
    optimizer: Any,
    *,
    server_rate: Number = 0.01,
    b1: Number = 0.9,
    b2: Number = 0.99,
    tau: Number = 1e-3,
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "examples",
) -> Recipe:
    """FedAvg with Adam at the server; `tau` is the paper's degree of adaptivity.

    Differs from the paper's algorithm 2 by Adam's bias correction (the paper starts from
    `v = tau^2` and corrects nothing).

    Reference: Reddi et al., Adaptive Federated Optimization, 2020, arXiv:2003.00295,
      algorithm 2.
    """
    server = server_opt(optax.adam(server_rate, b1=b1, b2=b2, eps=tau))
    return compose(local(optimizer, batches, weighting=weighting), mean(), server)


@recipe
def fedyogi(
    optimizer: Any,
    *,
    server_rate: Number = 0.01,
    b1: Number = 0.9,
    b2: Number = 0.99,
    tau: Number = 1e-3,
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "examples",
) -> Recipe:
    """FedAvg with Yogi at the server: `v <- v - (1 - b2) delta^2 sign(v - delta^2)`.

    Reference: Reddi et al., Adaptive Federated Optimization, 2020, arXiv:2003.00295,
      algorithm 2; bias-corrected as in optax.
    """
    server = server_opt(optax.yogi(server_rate, b1=b1, b2=b2, eps=tau))
    return compose(local(optimizer, batches, weighting=weighting), mean(), server)


@recipe
def fedadagrad(
    optimizer: Any,
    *,
    server_rate: Number = 0.1,
    initial: Number = 1e-6,
    tau: Number = 1e-3,
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "examples",
) -> Recipe:
    """FedAvg with Adagrad at the server: `v <- v + delta^2`; `initial` is v before round 0.

    Reference: Reddi et al., Adaptive Federated Optimization, 2020, arXiv:2003.00295,
      algorithm 2 (beta1 = 0; the paper adds tau outside the root, optax inside).
    """
    server = server_opt(optax.adagrad(server_rate, initial_accumulator_value=initial, eps=tau))
    return compose(local(optimizer, batches, weighting=weighting), mean(), server)
