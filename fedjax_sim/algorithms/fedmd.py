"""FedMD: clients of any architecture that agree on what a public set shows."""

from __future__ import annotations

from typing import Any

from fedjax_sim.aggregation.rows import mean_of_rows
from fedjax_sim.clients.architectures import OwnModel, own_model
from fedjax_sim.clients.scores import digesting
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.types import Context, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.consensus import Consensus, architecture_model, server_consensus


@recipe
def fedmd(
    optimizer: Any,
    *,
    public: Any = None,
    networks: Any = None,
    match: str = "absolute",
    digest_steps: int = 20,
    digest_batch: int = 32,
    most_classes: int = 128,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
) -> Recipe:
    """Share class scores on public inputs, not models.

    A client takes steps of its own model, kept in its row, on `D(f_i(x), f(x))` over public x, then
    on its own examples, and reports its scores; `f(x) <- mean_i f_i(x)` over the round's clients.
    Architectures may differ (`tasks.mixed`). With `digest_steps=0` it is training alone, the
    optimizer starting anew each round. The first round has no consensus, and digests nothing.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      public: inputs `[Q, ...]`; an experiment file's are some of the training inputs.
      networks: int `[N]`, each client's architecture; client i has `i % A` by default.
      match: D: the mean of `absolute` or `squared` differences of scores, or the `divergence`
        of their softmax.
      digest_steps: on the public set, a round.
      digest_batch: public examples a step.
      most_classes: columns kept for scores; at least the number of classes.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: of a client's scores; all alike, as in the paper.

    Cost: `digest_steps` steps beside the local ones, a forward pass over the public set; a row is a
      model; Q x C numbers go up and down, no model does.
    Reference: Li, Wang, FedMD: Heterogenous Federated Learning via Model Distillation, 2019,
      arXiv:1910.03581, algorithm 1, from memory. Its models are first trained on labelled public
      data and then to convergence on their own; here they begin untrained and public data have
      no labels. D is the mean absolute difference of the logits, as in the authors' program. A
      client digests what the round before agreed upon, whether or not it took part.
    """

    def model_of(ctx: Context, state: Consensus, row: OwnModel, data: Any) -> Model:
        del data
        return own_model(row, architecture_model(state.model, ctx.member, networks))

    many = 1 if public is None else len(public)
    return compose(
        digesting(
            optimizer, public, batches,
            steps=digest_steps, batch=digest_batch, match=match, weighting=weighting,
        ),
        mean_of_rows(),
        server_consensus(many, most_classes, ids=networks),
        model_of=model_of,
        shared=False,
    )  # fmt: skip
