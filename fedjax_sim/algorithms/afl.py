"""AFL: the model that does best on the worst mixture of domains."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from fedjax_sim.aggregation.balanced import balanced
from fedjax_sim.aggregation.tilted import tilted
from fedjax_sim.clients.fair import LOSS, TILT, sharing
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import InputError, number
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Array, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.agnostic import AgnosticState, server_agnostic


@recipe
def afl(
    optimizer: Any,
    *,
    groups: Any = None,
    lambda_rate: Array | float = 0.1,
    batches: Batches = Batches(),  # noqa: B008
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008
) -> Recipe:
    """Descend on `sum_g lambda_g F_g(x)` while lambda ascends: `min_x max_lambda`.

    `x <- x - server(sum_g lambda_g u_g / sum_g lambda_g)` over the domains heard, u_g being the
    weighted mean of the updates of domain g, and `lambda <- onto_simplex(lambda + lambda_rate F)`
    with the domains' losses F at the x that the round began with.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      groups: int `[N]`, each client's domain; None makes every client its own. Experiment files
        take the groups that are planted in the data.
      lambda_rate: of the domains' weights; lambda moves by that times differences of losses.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: of clients within their domain; the paper's domains are sets of examples.
      server: server optimizer (optax); `sgd(1.0)` is the paper's step.

    Raises:
      InputError: groups that are no whole numbers from 0.

    Cost: as FedAvg and one forward pass over each client's examples; memory lanes x P, and M x P
      with groups.
    Reference: Mohri, Sivek and Suresh, Agnostic Federated Learning, 2019, arXiv:1902.00146,
      algorithm 1. Ours trains locally for more than one step, hears a part of the domains in a
      round (the others keep their last known loss), and gives the last model, not the mean of
      all.
    """
    number("algorithm.lambda_rate", lambda_rate, least=0)
    table = _domains(groups)
    count = None if table is None else int(table.max()) + 1

    def domain_of(client: Array) -> Array:
        return client if table is None else jnp.asarray(table)[client]

    trained = local(optimizer, batches, weighting=weighting)
    client = sharing(trained, domain_of, alone=table is None)
    rows = (LOSS, "group")
    by_client = tilted(TILT, collect=rows)
    fold = balanced(count, share="share", collect=rows) if count else by_client
    updater = server_agnostic(server, lambda_rate, domain_of, domains=count, loss=LOSS)
    return compose(client, fold, _for_as_many(updater, table))


def _for_as_many(updater: ServerUpdate, table: np.ndarray | None) -> ServerUpdate:
    """The server, which refuses a population that the table does not fit."""

    def init(model: Model, n_clients: int) -> AgnosticState:
        if table is not None and len(table) != n_clients:
            remedy = f"must be one a client: {n_clients}"
            raise InputError("algorithm.groups", f"{len(table)} of them", remedy)
        return updater.init(model, n_clients)

    return updater._replace(init=init)


def _domains(groups: Any) -> np.ndarray | None:
    if groups is None:
        return None
    ids = np.asarray(groups)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids) or ids.min() < 0:
        raise InputError("algorithm.groups", groups, "must be one whole number from 0 a client")
    return ids.astype(np.int32)
