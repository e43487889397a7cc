"""FedRep: the head first, then the representation under it."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.algorithms.fedper import kept_apart
from fedjax_sim.clients.keep import in_turn, of_params
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.checks import integer
from fedjax_sim.core.parts import Rule
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, recipe


@recipe
def fedrep(
    optimizer: Any,
    *,
    personal: Rule = "head",
    head_epochs: int = 1,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """Fit the own head to the received body, then improve the body under that head.

    `head_epochs` epochs of `h_i <- h_i - lr grad_h f_i(b, h_i)` at the received b, then the epochs
    of `batches` of `b_i <- b_i - lr grad_b f_i(b_i, h_i)`; `b <- mean_i b_i`, and h_i stays. A
    client that never took part has the first head. Batch statistics, where a model has
    them, are those of the second pass, and averaged.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers; anew for each part.
      personal: what clients keep and train first; see `core.parts.Rule`.
      head_epochs: epochs for the head, at least 1.
      batches: for the body, made from `epochs, steps, batch_size, last, shuffle`; a straggler
        does its share of both.
      weighting: the paper averages uniformly.
      server: optimizer of the shared part.

    Cost: `head_epochs` passes more than FedAvg, whose gradients end at the head; a lane carries two
      models; a row costs the personal leaves; only the shared leaves go down and up.
    Reference: Collins, Hassani, Mokhtari, Shakkottai, Exploiting Shared Representations for
      Personalized Federated Learning, 2021, arXiv:2102.07078, algorithm 1. The paper's
      experiments (from memory) take 10 epochs for the head and 1 for the body; on clients of a
      dozen examples one for the head does better. Heads begin alike here.
    """
    integer("algorithm.head_epochs", head_epochs, least=1)
    client = in_turn(optimizer, batches, head_epochs, personal=personal, weighting=weighting)
    return kept_apart(client, of_params(personal), server, trained=lambda work: work.then.model)
