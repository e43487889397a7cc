"""FedProto: clients of any architecture that agree on what classes look like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from fedjax_sim.aggregation.rows import mean_of_rows
from fedjax_sim.clients.architectures import OwnModel, own_model
from fedjax_sim.clients.prototypes import Anchored, nearest, prototypes
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.checks import choice, number
from fedjax_sim.core.types import Array, Context, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.consensus import Consensus, architecture_model, server_consensus


@recipe
def fedproto(
    optimizer: Any,
    *,
    strength: Array | float = 1.0,
    predict: str = "prototypes",
    networks: Any = None,
    most_classes: int = 128,
    most_features: int = 512,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
) -> Recipe:
    """Share the classes' mean representations, not models: `loss + strength |f(x) - C_y|^2 / F`.

    Every client trains a model of its own, kept in its row, whose representations are drawn to the
    shared prototypes; then it reports the mean representation of each of its classes, and
    `C_j <- sum_i w_ij C_ij / sum_i w_ij`, w_ij the number of its examples of class j. A class that
    nobody reports keeps its prototype. Architectures may differ (`tasks.mixed`). With `strength=0`
    it is training alone, the optimizer starting anew each round.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      strength: the paper's lambda.
      predict: `prototypes`: the class of the nearest shared prototype, as in the paper; `head`: by
        the client's own outputs.
      networks: int `[N]`, each client's architecture; client i has `i % A` by default.
      most_classes: rows kept for prototypes; at least the number of classes.
      most_features: columns kept; at least the width of the representation.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: of a client's prototype of a class, by its examples of the class; `uniform` is the
        mean over the clients that have it.

    Cost: a second look at the representation in each step, and a forward pass over the examples
      at the end; a row is a model; C x F numbers go up and down, no model does.
    Reference: Tan, Long, Liu, Zhou, Lu, Jiang, Zhang, FedProto: Federated Prototype Learning across
      Heterogeneous Clients, 2021, arXiv:2105.00243, algorithm 1 and equations 3 to 8, from memory.
      Its factor 1 / |N_j| beside weights that sum to 1 is left out (it would shrink them); the
      distance is taken example by example, as in the authors' program, and own prototypes are
      those of the model after its last step. The loss in the records includes the penalty.
    """
    number("algorithm.strength", strength, least=0)
    choice("algorithm.predict", predict, ("head", "prototypes"))
    return compose(
        prototypes(optimizer, strength, batches, weighting=weighting),
        mean_of_rows(),
        server_consensus(most_classes, most_features, ids=networks),
        model_of=_model_of(predict, networks),
        predict=None if predict == "head" else nearest,
        shared=False,
    )


def _model_of(predict: str, networks: Any) -> Callable[..., Model]:
    def model_of(ctx: Context, state: Consensus, row: OwnModel, data: Any) -> Model:
        del data
        model = own_model(row, architecture_model(state.model, ctx.member, networks))
        if predict == "head":
            return model
        known = jnp.where(state.known[:, None], state.value, jnp.inf)
        return Model(Anchored(model.params, known), model.state)

    return model_of
