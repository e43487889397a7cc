"""FedADMM: consensus by multipliers, with whoever is there."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.dual import alternating, dual
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.checks import choice, number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.control import server_share
from fedjax_sim.server.optimizer import server_opt

STARTS, MEANS = ("global", "own"), ("cohort", "population")


@recipe
def fedadmm(
    optimizer: Any,
    *,
    rho: Array | float = 0.1,
    server_rate: Array | float = 1.0,
    start: str = "global",
    mean_over: str = "population",
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
) -> Recipe:
    """Minimise `f_i(w) + <y_i, w - x> + rho/2 |w - x|^2`, then `y_i <- y_i + rho (w_i - x)`.

    `x <- x + rate mean(d_i)`, d_i the change of the augmented model `w_i + y_i / rho`. Over the
    cohort, with `server_rate=0.5`, its first round is FedProx's; with everyone in every round
    it is FedDyn.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      rho: strength, above 0.
      server_rate: the paper's eta.
      start: local training starts from the `global` model or from the client's `own` last one.
      mean_over: `population` takes the mean over everyone, of whom the absent have not moved: x
        stays the mean of all augmented models, on which the fixed point rests. `cohort` takes it
        over those present, which diverges where few are.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: uniform, as in the paper, or x is not the mean of all augmented models.

    Cost: client rows hold w_i and y_i (2 P each); as many bytes travel as with FedAvg.
    Reference: Gong, Li and Freris, FedADMM: A Robust Federated Deep Learning Framework with
      Adaptivity to System Heterogeneity, 2022, arXiv:2203.15104, algorithm 1, from memory.
      `population` is its eta = |S| / m.
    """
    number("algorithm.rho", rho, above=0)
    choice("algorithm.start", start, STARTS)
    choice("algorithm.mean_over", mean_over, MEANS)
    rule = alternating(rho, warm=start == "own")
    client = dual(optimizer, rule, rho, batches, weighting=weighting)
    server = server_opt if mean_over == "cohort" else server_share
    return compose(client, mean(), server(optax.sgd(server_rate)))
