"""Federated SGD: one exact gradient a round."""

from __future__ import annotations

from typing import Any

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.sgd import Weighting, gradient
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def fedsgd(optimizer: Any, *, weighting: Weighting = "examples") -> Recipe:
    """Every client reports the gradient over all its examples; the server steps on the mean.

    Args:
      optimizer: the server's (optax), or a function of named numbers; clients take no step.
      weighting: by examples gives the gradient of the pooled loss.

    Reference: McMahan et al., 2016, arXiv:1602.05629, section 2 (FederatedSGD, C = 1 when
      the cohort is everyone).
    """
    return compose(gradient(weighting=weighting), mean(), server_opt(optimizer))
