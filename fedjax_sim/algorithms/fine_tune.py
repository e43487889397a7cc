"""FedAvg, and every client fits the global model to itself before it is used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.adapt import adapt
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import integer, number
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import OfTask, Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def fine_tune(
    optimizer: Any,
    *,
    tune_rate: Array | float = 0.05,
    tune_epochs: int = 5,
    tuner: Any = None,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """FedAvg's model, trained further on each client's own examples when that client uses it.

    `theta_i = x` after `tune_epochs` passes of `y <- y - tune_rate grad f_i(y)`. Training is
    FedAvg's to the last bit; nothing is kept between rounds.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      tune_rate: learning rate of the fitting, which is plain SGD.
      tune_epochs: passes of the fitting, in batches as in training.
      tuner: optimizer of the fitting (optax) in place of SGD; `tune_rate` then says nothing.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples, as FedAvg.
      server: server optimizer (optax).

    Cost: FedAvg's; in each evaluation `tune_epochs` passes of every client; no rows.
    Reference: Wang, Mathews, Kiddon, Eichner, Beaufays, Ramage, Federated Evaluation of
      On-device Personalization, 2019, arXiv:1910.10252, section 2 (from memory). The paper keeps
      the fitted model only where it does better on held-out examples; here it is always used.
    """
    number("algorithm.tune_rate", tune_rate, above=0)
    epochs = integer("algorithm.tune_epochs", tune_epochs, least=1)
    own = optax.sgd(tune_rate) if tuner is None else tuner
    client = local(optimizer, batches, weighting=weighting)
    passes = dataclasses.replace(batches, epochs=epochs, steps=None)
    return compose(client, mean(), server_opt(server), model_of=fitted(own, passes))


def fitted(optimizer: Any, batches: Batches) -> OfTask:
    """A `model_of` that fits the server's model to the client; see `clients.adapt`."""

    def build(task: Task) -> Callable[..., Model]:
        fit = adapt(task, optimizer, batches)
        return lambda ctx, state, row, data: fit(ctx, state.model, data)

    return OfTask(build)
