"""FedBABU: only the body is trained together; the head waits for the fine-tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.adapt import adapt
from fedjax_sim.clients.keep import train
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.checks import integer
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.parts import Rule, masked
from fedjax_sim.core.types import Array, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import OfTask, Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt
from fedjax_sim.transforms.parts import hold


@recipe
def fedbabu(
    optimizer: Any,
    *,
    personal: Rule = "head",
    tune_epochs: int = 5,
    tune_scale: Array | float = 0.1,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """Average bodies trained under one random head that nobody moves; fine-tune to evaluate.

    `b_i <- b_i - lr grad_b f_i(b_i, h_0)`, `b <- sum_i n_i b_i / sum_i n_i`. The global model is
    `(b, h_0)`; a client uses what `tune_epochs` epochs of training of the whole of it on its own
    training examples give, with the client optimizer. No client has a state.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      personal: what stays as drawn until it is fine-tuned; see `core.parts.Rule`.
      tune_epochs: epochs of fine-tuning before a client is evaluated; 0 for none.
      tune_scale: its steps are so many times as long as those of training. A body that has
        learnt to suit an arbitrary head gives that head large gradients.
      batches: made from `epochs, steps, batch_size, last, shuffle`; fine-tuning takes all but
        its epochs from here.
      weighting: by examples, as in the paper.
      server: optimizer of the shared part.

    Cost: no pass more than FedAvg, and no gradient of the head, which counts among what goes down
      and up, though it need not travel; `tune_epochs` passes a client in each evaluation of
      clients.
    Reference: Oh, Kim, Yun, FedBABU: Towards Enhanced Representation for Federated Image
      Classification, 2021, arXiv:2106.06042, algorithm 1. Of the paper's ways to fine-tune (head,
      body, all) this is all. Fine-tuning with momentum starts from none.
    """
    integer("algorithm.tune_epochs", tune_epochs, least=0)
    held = masked(personal)
    return compose(
        train(optimizer, batches, held=held, weighting=weighting),
        mean(),
        server_opt(optax.chain(server, hold(held))),
        model_of=OfTask(tuned(optimizer, batches, tune_epochs, tune_scale)),
    )


def tuned(
    optimizer: Any, batches: Batches, epochs: int, factor: Array | float
) -> Callable[[Task], Callable[..., Model]]:
    """For `OfTask`: the server's model after some epochs on the client's own window."""
    shorter = optax.chain(optax.with_extra_args_support(optimizer), optax.scale(factor))

    def build(task: Task) -> Callable[..., Model]:
        if epochs == 0:
            return lambda ctx, state, row, data: state.model
        change = adapt(task, shorter, dataclasses.replace(batches, epochs=epochs, steps=None))
        return lambda ctx, state, row, data: change(ctx, state.model, data)

    return build
