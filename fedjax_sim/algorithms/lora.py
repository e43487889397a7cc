"""LoRA: low-rank factors travel, the model beneath them is frozen."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.lora import adapting
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.types import Array, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.lora import server_lora


@recipe
def lora(
    optimizer: Any,
    *,
    rank: int = 8,
    alpha: Array | float = 4.0,
    base: Model | None = None,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """FedAvg of low-rank factors: every kernel is `W + (alpha / r) A B`, W frozen.

    A is drawn from N(0, 1 / rows), B is 0, so that round 0 starts at the base. A kernel
    `[..., in, out]` is seen as a matrix with its last axis for columns; vectors (biases, scales)
    are frozen. The factors are averaged each for itself, so that the mean of the products is not
    the product of the means.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      rank: r.
      alpha: scale of the factors, divided by r.
      base: the frozen model; the run's first, random one by default.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples.
      server: optimizer of the factors.

    Cost: `r (rows + columns)` numbers a kernel up; the records' downlink counts the base, which
      real clients keep. A step merges the kernels that are not matrices (`r P` multiply-adds).
    Reference: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021,
      arXiv:2106.09685, section 4.1, equation 3. Averaged by FedAvg here; the paper has one learner.
    """
    client = adapting(local(optimizer, batches, weighting=weighting), alpha)
    return compose(client, mean(), server_lora(server, rank, alpha, base))
