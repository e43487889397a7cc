"""FedEM: clients as mixtures of M shared models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.mixture import mixed_model, mixture, predict_mixture
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.contracts import ServerUpdate, Task
from fedjax_sim.core.types import Aggregate, Array, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import OfTask, Recipe, compose, recipe
from fedjax_sim.server.many import server_many, step_each
from fedjax_sim.server.optimizer import ServerState


@recipe
def fedem(
    optimizer: Any,
    *,
    groups: int = 3,
    start: str | Model = "fresh",
    spread: Array | float = 0.1,
    outputs: str = "auto",
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """Each client's data are a mixture of M shared models, with shares of its own.

    A client finds by how much each model explains each of its examples (q), takes the means of q
    as its shares pi, and trains every model on its examples weighted by q. The server averages
    each model: `x_m <- x_m - server(sum_i n_i (x_m - y_im) / sum_i n_i)`. A client predicts by the
    pi-weighted mean of the models' probabilities, or values in a regression. With `groups=1`
    it is FedAvg.

    A client that never took part uses shares from one E pass over its own examples. Components
    that start alike stay alike, and EM ends where it begins well.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers; one a component.
      groups: M.
      start: the first components: `fresh`, `perturbed`, `same`, or a `Model` of leaves
        `[M, ...]`; see `server.many.server_many`.
      spread: standard deviation of a perturbation.
      outputs: how components' outputs are mixed; see `clients.mixture.predict_mixture`.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples, as in the paper.
      server: optimizer of each component, with a state a component.

    Cost: M x (gradient and forward pass) a local step and M forward passes over a client's
      examples; M x P goes down and up; memory M x P at the server and M x 2 P a lane.
    Reference: Marfoq, Neglia, Bellet, Kameni, Vidal, Federated Multi-Task Learning under a Mixture
      of Distributions, 2021, arXiv:2108.10252, algorithms 1 and 2.
    """
    return compose(
        mixture(optimizer, groups, batches, weighting=weighting),
        mean(),
        _together(server, server_many(server, groups, start=start, spread=spread)),
        model_of=OfTask(_mixture_of),
        predict=lambda task: predict_mixture(task, outputs),
        shared=False,
        groups=groups,
    )


def _mixture_of(task: Task) -> Callable[..., Model]:
    return lambda ctx, state, row, data: mixed_model(task, ctx, state.model, row, data)


def _together(optimizer: Any, base: ServerUpdate) -> ServerUpdate:
    """Every client reports to every model, with the same weight."""

    def update(state: ServerState, aggregate: Aggregate, key: Array) -> ServerState:
        del key
        weight = jnp.broadcast_to(aggregate.weight, state.scale.shape)
        aux = {"group_weight": weight}
        return step_each(optimizer, state, aggregate._replace(aux=aux))

    return base._replace(update=update)
