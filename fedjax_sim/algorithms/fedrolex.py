"""FedRolex: parts of the model that roll over all of its units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optax

from fedjax_sim.aggregation.coverage import coverage
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.clients.width import in_part, ratios_of, widths
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.many import fixed_groups
from fedjax_sim.server.optimizer import server_opt


@recipe
def fedrolex(
    optimizer: Any,
    *,
    tiers: int = 5,
    ratios: Sequence[float] | None = None,
    levels: Any = None,
    form: str = "sliced",
    server_rate: Array | float = 1.0,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
) -> Recipe:
    """Train units `t, t+1, ..., t + ceil(r n) - 1` modulo n of every width in round t.

    The window moves on by a unit a round, so that all of the model is trained evenly, also where
    no client can hold it whole. Each coordinate is averaged over its holders, as in `heterofl`,
    which this is while the window stands at 0.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      tiers: number of levels; their ratios are 1, 1/2, 1/4, ...
      ratios: the levels' ratios, falling, in place of those.
      levels: the level of every client, whole numbers `[N]`; client i has `i % tiers` by default.
      form: `sliced` or `masked`, see `clients.width.in_part`; equal models.
      server_rate: learning rate of the server.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper weighs by examples.

    Cost: as `heterofl`, and each part is rolled into place (2 P copied a client).
    Reference: Alam, Liu, Yan, Zhang, FedRolex: Model-Heterogeneous Federated Learning with
      Rolling Sub-Model Extraction, 2022, arXiv:2212.01548, algorithm 1 and equation 2; from
      memory. Rounds count from 0 here.
    """
    shares = ratios_of(tiers, ratios)
    which = widths(shares, fixed_groups(len(shares), levels), rolling=True)
    client = in_part(optimizer, batches, which, form=form, weighting=weighting)
    return compose(client, coverage(), server_opt(optax.sgd(server_rate)))
