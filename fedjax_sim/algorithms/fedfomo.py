"""FedFomo: each client asks for other clients' models and begins with those that suit it."""

from __future__ import annotations

from typing import Any

from fedjax_sim.aggregation.by_client import by_client
from fedjax_sim.algorithms.fedamp import that_fits
from fedjax_sim.clients.ask import first_order
from fedjax_sim.clients.sgd import local
from fedjax_sim.core.checks import integer, number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.table import model_in_table, server_table


@recipe
def fedfomo(
    optimizer: Any,
    *,
    models: int = 10,
    validation: Array | float = 0.2,
    epsilon: Array | float = 0.3,
    batches: Batches = Batches(),  # noqa: B008 - frozen
) -> Recipe:
    """Begin local training with the models of others that do better on one's own held-out part.

    `w_j = (L_i(theta_i) - L_i(theta_j)) / |theta_j - theta_i|` over up to M other models, L_i the
    loss on the last `validation` of the client's examples;
    `theta_i <- theta_i + sum_j max(w_j, 0) (theta_j - theta_i) / sum_j max(w_j, 0)`, then local
    steps on the other examples. The server adds w_j to the client's affinities `P_i`, and sends
    the M models of highest affinity, each replaced by a random one with chance epsilon.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      models: M.
      validation: the share of a client's examples that it does not train on, in (0, 1).
      epsilon: in [0, 1].
      batches: made from `epochs, steps, batch_size, last, shuffle`.

    Cost: 1 + M forward passes over the held-out examples; N x P + N^2 at the server on every
      device, K x P for the reports; M models down, one up (and M numbers, which the records of
      traffic leave out).
    Reference: Zhang, Sapra, Fidler, Yeung, Alvarez, Personalized Federated Learning with First
      Order Model Optimization, 2020, arXiv:2012.08565, equations 3 and 4 and section 3.2, from
      memory. Affinities begin at 0 and ties are broken at random; epsilon does not decay. Models
      asked for are those of clients that ever reported, as of their last round; a client that never
      trained begins at the first model.
    """
    integer("algorithm.models", models, least=1)
    number("algorithm.validation", validation, above=0, below=1)
    number("algorithm.epsilon", epsilon, least=0, most=1)
    trained = local(optimizer, batches, weighting="uniform")
    return compose(
        first_order(trained, models, validation, epsilon),
        by_client(values=("chosen", "gain"), down="chosen"),
        that_fits(server_table(affinity=True)),
        model_of=model_in_table,
        shared=False,
    )
