"""FedDF: averages of models, taught by the ensemble of all that were averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from fedjax_sim.aggregation.grouped import grouped
from fedjax_sim.clients.scores import speaking
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.types import Array, Context, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.consensus import architecture_model
from fedjax_sim.server.distil import server_distils
from fedjax_sim.server.optimizer import ServerState


@recipe
def feddf(
    optimizer: Any,
    *,
    public: Any = None,
    architectures: int = 1,
    networks: Any = None,
    distill_rate: Array | float = 1e-3,
    distill_steps: int = 100,
    distill_batch: int = 128,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
) -> Recipe:
    """Average the models of each architecture, then teach them the mean output of all clients'.

    `w_a <- sum_{i of a} n_i w_i / sum n_i`, then steps of Adam on
    `KL(s(mean_i f(x; w_i)), s(f(x; w_a)))` over unlabelled public x, s being the softmax and i all
    clients of the round. With one architecture all share one model; `distill_steps=0` then makes it
    FedAvg.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      public: inputs `[Q, ...]`; an experiment file's are some of the training inputs.
      architectures: A; above 1 with a model of so many (`tasks.mixed`), a global model for each.
      networks: int `[N]`, each client's architecture; client i has `i % A` by default.
      distill_rate: of Adam, which starts anew each round.
      distill_steps: on the public set, a round.
      distill_batch: public examples a step.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: of the models' mean, by examples; in the teacher all count the same.

    Cost: A x `distill_steps` gradients at the server, a forward pass over the public set a client;
      Q x C numbers more go up, so that no client's model is kept.
    Reference: Lin, Kong, Stich, Jaggi, Ensemble Distillation for Robust Model Fusion in Federated
      Learning, 2020, arXiv:2006.07242, algorithms 1 to 3, from memory. The teacher is the paper's,
      the mean of the logits of all received models. The rate is constant where the paper anneals it
      and stops by a validation set; no client is dropped for doing badly.
    """
    updater = server_distils(
        optax.adam(distill_rate),
        public,
        architectures=architectures,
        steps=distill_steps,
        batch=distill_batch,
        shuffle=batches.shuffle,
        ids=networks,
    )
    one, client = architectures == 1, local(optimizer, batches, weighting=weighting)
    return compose(
        speaking(client, public),
        grouped(architectures),
        updater,
        model_of=None if one else _model_of(networks),
        shared=one,
    )


def _model_of(networks: Any) -> Callable[..., Model]:
    def model_of(ctx: Context, state: ServerState, row: Any, data: Any) -> Model:
        del row, data
        return architecture_model(state.model, ctx.member, networks)

    return model_of
