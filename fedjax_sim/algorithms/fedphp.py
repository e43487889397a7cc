"""FedPHP: a client's past models, averaged, teach the one that it trains next."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.inherit import inheriting
from fedjax_sim.clients.kept import own_model
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def fedphp(
    optimizer: Any,
    *,
    strength: Array | float = 0.1,
    temperature: Array | float = 1.0,
    momentum: Array | float = 0.9,
    visits: Array | float = 10.0,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """FedAvg taught by each client's inherited private model p_i, a running mean of its models.

    Local steps on `(1 - lambda) f_i(y) + lambda T^2 KL(p_i(x) / T, y(x) / T)`, from the received
    model; then `p_i <- mu p_i + (1 - mu) y` with `mu = momentum min(1, z_i / visits)`, z_i the
    rounds in which the client trained before. p_i is the personal model. With `strength = 0` the
    global model is FedAvg's.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      strength: lambda, in [0, 1].
      temperature: T.
      momentum: what mu grows to, in [0, 1].
      visits: rounds of a client until mu is `momentum`; the expected number of its rounds.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples, as FedAvg.
      server: server optimizer (optax).

    Cost: a forward pass of p_i in each local step; a row costs P; FedAvg's traffic.
    Reference: Li, Zhan, Shao, Li, Song, FedPHP: Federated Personalization with Inherited Private
      Models, ECML PKDD 2021, doi:10.1007/978-3-030-86486-6_36, from memory; loss and mu as in the
      authors' program. It moves knowledge by distillation or by a distance of representations
      (MMD); here it is distillation, with T on both sides and the factor T^2 (there T is 4, on the
      teacher's outputs alone). There the first model, untrained, teaches in a client's first
      round; here nobody does.
    """
    number("algorithm.strength", strength, least=0, most=1)
    number("algorithm.temperature", temperature, above=0)
    number("algorithm.momentum", momentum, least=0, most=1)
    number("algorithm.visits", visits, above=0)
    client = inheriting(
        optimizer, strength, temperature, momentum, visits, batches, weighting=weighting
    )
    return compose(
        client,
        mean(),
        server_opt(server),
        model_of=lambda ctx, state, row, data: own_model(row, state.model),
    )
