"""FedDyn: a regulariser that follows each client's own gradient."""

from __future__ import annotations

from typing import Any

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.dual import dual, dynamic
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.control import server_dynamic


@recipe
def feddyn(
    optimizer: Any,
    *,
    alpha: Array | float = 0.1,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
) -> Recipe:
    """Minimise `f_i(y) - <h_i, y> + alpha/2 |y - x|^2`; at rest h_i is the client's gradient.

    `h_i <- h_i - alpha (y_i - x)`; with u the mean of `x - y_i` over the cohort and h the mean of
    h_i over everyone, `h <- h + alpha n_present / N u` and `x <- x - u - h / alpha`.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      alpha: strength, above 0. Small ones let the model move far on what few clients say.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: uniform, as in the paper, or h is not the mean of all h_i.

    Cost: client rows hold h_i (P each), the server h; as many bytes travel as with FedAvg.
    Reference: Acar et al., Federated Learning Based on Dynamic Regularization, 2021,
      arXiv:2111.04263, algorithm 1, from memory. The paper solves each local problem exactly;
      here local steps solve it as far as they go.
    """
    number("algorithm.alpha", alpha, above=0)
    client = dual(optimizer, dynamic(alpha), alpha, batches, weighting=weighting)
    return compose(client, mean(), server_dynamic(alpha))
