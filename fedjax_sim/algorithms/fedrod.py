"""FedRoD: a generic head for everyone's labels, and a personal one beside it."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.heads import TwoHeads, doubled, two_heads
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.parts import Rule
from fedjax_sim.core.types import Context, Model, PyTree
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import ServerState, server_opt


@recipe
def fedrod(
    optimizer: Any,
    *,
    personal: Rule = "head",
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """Average a model trained on a balanced loss; beside it train a head for the own labels.

    With logits `g` of the generic model (body and generic head), `p` of the own head on the same
    body, and n_c own examples of class c, each local step moves body and generic head along
    `-grad CE(g + log n_c, y)` (the balanced softmax) and the own head along
    `-grad CE(stop(g) + p, y)`. The server averages the generic model, which is the global
    one; a client predicts by `g + p`. Own heads begin at 0, so that a client that never took
    part predicts by g. On clients whose labels are all equally frequent the global model is
    FedAvg's.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers; it moves both parts, and
        starts anew each round.
      personal: which leaves are doubled; see `core.parts.Rule`.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples, as in the paper.
      server: optimizer of the generic model.

    Cost: one gradient pass of the model and one of the own head a step, on one pass over the body
      where the compiler sees that both are the same; evaluation likewise; a row costs a
      head; the whole generic model goes down and up.
    Reference: Chen, Chao, On Bridging Generic and Personalized Federated Learning for Image
      Classification, 2021, arXiv:2107.00778, sections 4 and 5 (the linear form). Its hypernetwork,
      which makes own heads from the labels' frequencies, is not here.
    """
    return compose(
        two_heads(optimizer, batches, personal=personal, weighting=weighting),
        mean(),
        server_opt(server),
        model_of=_both,
        predict=lambda task: doubled(task, personal).predict,
    )


def _both(ctx: Context, state: ServerState, row: PyTree, data: Any) -> Model:
    """The global model with the client's own head."""
    del ctx, data
    return state.model._replace(params=TwoHeads(state.model.params, row.leaves))
