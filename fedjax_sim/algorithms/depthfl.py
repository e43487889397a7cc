"""DepthFL: clients of different strength train the first blocks of a model with exits."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax

from fedjax_sim.aggregation.coverage import coverage
from fedjax_sim.clients.depth import to_depth
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import integer
from fedjax_sim.core.types import Array, Context
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.many import fixed_groups
from fedjax_sim.server.optimizer import server_opt


@recipe
def depthfl(
    optimizer: Any,
    *,
    distill: Array | float = 1.0,
    warmup: int = 0,
    levels: Any = None,
    server_rate: Array | float = 1.0,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
) -> Recipe:
    """Train the blocks up to a client's own exit; average each parameter over its holders.

    A client of depth d has the loss `sum_{i <= d} CE_i + a / (d - 1) sum_i sum_{j != i}
    KL(p_j || p_i)`: each exit learns from the labels and from the other exits. The model predicts
    with all exits (the mean of their outputs). Models with exits are `models.mlp_exits` and
    `tasks.with_exits`; a model without has one, and this is FedAvg.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      distill: a.
      warmup: rounds T in which a grows, by `exp(-5 (1 - t / T)^2)`; 0 for none.
      levels: of every client, whole numbers `[N]`: level 0 has all D exits, level l has `D - l`;
        client i has `i % D` by default.
      server_rate: learning rate of the server.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples.

    Cost: the products of the blocks held, D small exits; uplink (`aux["held"]`) likewise, the
      records' uplink is the whole model's. 2 P more for coverage.
    Reference: Kim, Yu, Kim, Moon, DepthFL: Depthwise Federated Learning for Heterogeneous
      Clients, ICLR 2023, equations 1 to 3, from memory. Its warm-up is 300 rounds; exits are
      added as logits there and here. FedDyn's penalty, which it adds in one variant, is not here.
    """
    rounds = integer("algorithm.warmup", warmup, least=0)

    def weight(ctx: Context) -> Array:
        share = jnp.minimum(ctx.round.astype(float) / rounds, 1.0) if rounds else 1.0
        return jnp.asarray(distill) * jnp.exp(-5.0 * (1.0 - share) ** 2)

    base = local(optimizer, batches, weighting=weighting)
    client = to_depth(base, lambda deepest: fixed_groups(deepest, levels), weight)
    return compose(client, coverage(), server_opt(optax.sgd(server_rate)))
