"""Federated SGD that leaves saddles along the Hessian's lowest eigenvector."""

from __future__ import annotations

from typing import Any

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.curvature import gradient_and_product
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.types import Array
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.curvature import server_curvature


@recipe
def negative_curvature(
    optimizer: Any,
    *,
    threshold: Array | float = 1e-2,
    tolerance: Array | float = 1e-2,
    lipschitz: Array | float = 1.0,
    probes: Array | float = 20.0,
    weighting: Weighting = "examples",
) -> Recipe:
    """Every client reports gradient and Hessian-vector product; the server follows both.

    Descent with the server's optimizer while the gradient is large; where it is small, a step
    along negative curvature once the lowest eigenvector is known (`server.curvature`).

    Args:
      optimizer: the server's (optax), or a function of named numbers; clients take no step.
      threshold: gradients below this norm count as small.
      tolerance: curvature above minus this counts as none.
      lipschitz: first guess of the Hessian's Lipschitz constant; corrected on the way.
      probes: rounds spent on one direction at most.
      weighting: by examples gives the pooled loss.

    Example:
      >>> import optax
      >>> recipe = negative_curvature(lambda lr: optax.sgd(lr), lr=0.1)
      >>> sorted(recipe.hyper)
      ['lipschitz', 'lr', 'probes', 'threshold', 'tolerance']

    Cost: two gradients' work and twice the bytes of `fedsgd`.
    Reference: Carmon et al., Accelerated Methods for Nonconvex Optimization, 2018,
      arXiv:1611.00756, algorithm 3; see `server.curvature.server_curvature` for what differs.
    """
    following = server_curvature(
        optimizer, threshold=threshold, tolerance=tolerance, lipschitz=lipschitz, probes=probes
    )
    return compose(gradient_and_product(weighting=weighting), mean(), following)
