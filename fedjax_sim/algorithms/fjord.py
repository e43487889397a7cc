"""FjORD: ordered dropout, so that every width of the model is a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optax

from fedjax_sim.aggregation.coverage import coverage
from fedjax_sim.clients.ordered import ordered
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.clients.width import ratios_of, widths
from fedjax_sim.core.checks import integer
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.many import fixed_groups
from fedjax_sim.server.optimizer import server_opt


@recipe
def fjord(
    optimizer: Any,
    *,
    tiers: int = 5,
    ratios: Sequence[float] | None = None,
    levels: Any = None,
    form: str = "sliced",
    distill: str = "off",
    server_rate: Array | float = 1.0,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
) -> Recipe:
    """Each local step trains the first `ceil(p n)` units, p drawn evenly up to the client's own.

    With `distill` a step's loss is `CE(F_max, y) + CE(F_p, softmax(F_max))`: the client's widest
    part learns from the labels and the drawn one from it. Each coordinate is averaged over the
    clients whose widest part holds it. One level is FedAvg.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      tiers: number of levels; with `ratios` unset level j of M has `p = (M - j) / M`, so that
        widths are spread evenly.
      ratios: the levels' ratios, falling, in place of those.
      levels: the level of every client's widest part, whole numbers `[N]`; client i has
        `i % tiers` by default.
      form: `sliced` or `masked`, see `clients.width.in_part`; equal models.
      distill: `on` or `off`.
      server_rate: learning rate of the server.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper weighs by examples.

    Cost: the products of the drawn widths (with `distill` those of the widest too), an optimizer
      step on P; uplink as `heterofl`.
    Reference: Horvath, Laskaridis, Almeida, Leontiadis, Venieris, Lane, FjORD: Fair and Accurate
      Federated Learning under heterogeneous targets with Ordered Dropout, 2021,
      arXiv:2102.13451, algorithm 1; from memory, the distillation after the public baseline of
      Flower. Batch norms are shared by all widths; the paper keeps one for each.
    """
    many = integer("algorithm.tiers", tiers, least=1)
    even = [1 - j / many for j in range(many)] if ratios is None else ratios
    shares = ratios_of(tiers, even)
    which = widths(shares, fixed_groups(len(shares), levels))
    base = local(optimizer, batches, weighting=weighting)
    client = ordered(base, which, form=form, distill=distill)
    return compose(client, coverage(), server_opt(optax.sgd(server_rate)))
