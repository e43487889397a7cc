"""HeteroFL: clients of different strength train parts of different width."""

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
def heterofl(
    optimizer: Any,
    *,
    tiers: int = 5,
    ratios: Sequence[float] | None = None,
    levels: Any = None,
    assign: str = "fixed",
    form: str = "sliced",
    labels: str = "own",
    scaler: str = "off",
    server_rate: Array | float = 1.0,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
) -> Recipe:
    """Train the first `ceil(r n)` units of every width; average each coordinate over its holders.

    `x_c <- x_c - rate sum_{i holds c} w_i (x_c - y_ic) / sum_{i holds c} w_i`; what nobody holds
    stays. Widths are read off the model's program (`tasks.axes`).

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      tiers: number of levels; their ratios are 1, 1/2, 1/4, ... (the paper's a, b, c, d, e).
      ratios: the levels' ratios, falling, in place of those.
      levels: the level of every client, whole numbers `[N]`; client i has `i % tiers` by default.
      assign: `fixed`, or `dynamic`: a level drawn anew for every client and round.
      form: `sliced` or `masked`, see `clients.width.in_part`; equal models.
      labels: `own`: the masked cross-entropy: outputs of labels that a client has not are 0 in
        its loss, and their weights are not its to report.
      scaler: `on` divides what hidden layers make by r while training. In front of a batch norm
        it changes nothing but the share of the norm's epsilon; without one it blows up narrow
        parts.
      server_rate: learning rate of the server.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper's is uniform.

    Cost: at level r about r^2 of FedAvg's products, and its uplink (`aux["held"]`) likewise; the
      records' uplink is the whole model's. Carries 4/3 of the work; 2 P more for coverage.
    Reference: Diao, Ding, Tarokh, HeteroFL: Computation and Communication Efficient Federated
      Learning for Heterogeneous Clients, 2020, arXiv:2010.01264, algorithm 1. Its static batch
      norm, which tracks nothing and asks all clients at the end, is
      `algorithms.batch_norm.recalibrate` after a run; during the run statistics are averaged
      over their holders.
    """
    shares = ratios_of(tiers, ratios)
    which = widths(shares, fixed_groups(len(shares), levels), assign=assign)
    told: dict[str, Any] = {"form": form, "labels": labels, "scaler": scaler}
    client = in_part(optimizer, batches, which, weighting=weighting, **told)
    return compose(client, coverage(), server_opt(optax.sgd(server_rate)))
