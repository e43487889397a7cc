"""SCAFFOLD: control variates against client drift."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.control import controlled
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.checks import choice
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.control import server_control

OPTIONS = ("gradient", "steps")
"""Options I and II of the paper."""


@recipe
def scaffold(
    optimizer: Any,
    *,
    server_rate: Array | float = 1.0,
    option: str = "steps",
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "uniform",
) -> Recipe:
    """Correct every local gradient by `c - c_i`, so that local steps follow the global loss.

    `y <- y - eta (g_i(y) - c_i + c)`, `x <- x + rate mean(y_i - x)`, and
    `c <- c + n_present / N mean(c_i_new - c_i)`.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      server_rate: of the server's step.
      option: what c_i becomes: `steps`, the mean of the raw gradients met on the way (option
        II), or `gradient`, the exact gradient at the received model (option I).
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper averages uniformly.

    Cost: client rows hold c_i (P each); twice FedAvg's bytes travel. Option I takes one pass of
      gradients over the examples more.
    Reference: Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging, 2019,
      arXiv:1910.06378, algorithm 1 (see `clients.control` for how c_i is found). A straggler's
      gradient of option I is of all its examples.
    """
    choice("algorithm.option", option, OPTIONS)
    client = controlled(optimizer, batches, weighting=weighting, measure=option == "gradient")
    return compose(client, mean(), server_control(optax.sgd(server_rate)))
