"""FedPer: the body of the model is everyone's, the head each client's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.keep import Client, Where, keep, kept_model, of_params
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.parts import Rule
from fedjax_sim.core.types import Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import OfTask, Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt
from fedjax_sim.server.parts import server_part


@recipe
def fedper(
    optimizer: Any,
    *,
    personal: Rule = "head",
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """Train the whole model, average the body, keep the head.

    Local steps move both parts, `(b_i, h_i) <- (b_i, h_i) - lr grad f_i(b_i, h_i)`, from
    `(b, h_i)`; then `b <- sum_i n_i b_i / sum_i n_i`, and h_i waits in the client's row for its
    next turn. A client that never took part has the first head. Batch statistics, where a model
    has them, are averaged. `personal="none"` is FedAvg without a global model, `"all"` is
    `local_only` with an optimizer that starts anew each round.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      personal: what clients keep; see `core.parts.Rule`.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples, as in the paper.
      server: optimizer of the shared part.

    Cost: no pass more than FedAvg; a row costs the personal leaves, and a lane carries them twice;
      only the shared leaves go down and up.
    Reference: Arivazhagan, Aggarwal, Singh, Choudhary, Federated Learning with Personalization
      Layers, 2019, arXiv:1912.00818, algorithms 1 and 2. The paper's clients all take part in
      each round, and each draws a first head of its own; here all begin with one head.
    """
    return kept_apart(local(optimizer, batches, weighting=weighting), of_params(personal), server)


def kept_apart(
    client: Client,
    where: Where,
    server: Any,
    *,
    trained: Callable[[Any], Model] | None = None,
) -> Recipe:
    """Clients keep a part in their rows, the server has the rest.

    Args:
      client: receives and trains a whole `Model`.
      where: what clients keep (`clients.keep.of_params`).
      server: optimizer of the rest.
      trained: the model in the client's work; `work.model` by default.
    """
    return compose(
        keep(client, where) if trained is None else keep(client, where, trained=trained),
        mean(),
        server_part(server_opt(server), where),
        model_of=OfTask(kept_model(where)),
        shared=False,
    )
