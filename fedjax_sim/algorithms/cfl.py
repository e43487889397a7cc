"""CFL: a group of clients is split in two once its clients want to go different ways."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.grouped import grouped
from fedjax_sim.aggregation.updates import with_updates
from fedjax_sim.clients.choose import in_group
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.types import Array, Context, Report
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.split import Branch, model_of_slot, server_split


@recipe
def cfl(
    optimizer: Any,
    *,
    groups: int = 4,
    eps1: Array | float = 0.2,
    eps2: Array | float = 0.8,
    gamma_max: Array | float = 0.7,
    gap: Array | float = -2.0,
    norms: str = "relative",
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """Train one model to rest; where single clients still pull, cut the group in two; go on.

    `x_g <- x_g - server(u)`, u the mean of the group's updates u_i. Then the group is split if
    `|u| < eps1`, `max |u_i| > eps2` and `gamma_max < sqrt((1 - alpha_cross) / 2)`, into the
    two sides whose most alike updates are least alike; see `server.split.server_split`. With
    `groups=1` it is FedAvg.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      groups: the most groups there may be.
      eps1: length of a mean update below which a group is at rest.
      eps2: length of a client's update above which the client is not.
      gamma_max: in [0, 1), how far a client's update may be from its true group's, relatively.
      gap: smallest separation gap `alpha_intra_min - alpha_cross_max`; -2 asks for none.
      norms: `relative`: eps1 is in units of the group's longest update, eps2 in units of the
        longest one in the first round; `absolute` as in the paper.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples, as the paper's objective; its algorithm 4 averages uniformly.
      server: optimizer of each group's model, with a state a group.

    Cost: FedAvg's, K x P memory on every device for the cohort's updates (refused when too
      large) and M x 3 P; K^2 P for the cosines in rounds in which a group is at rest.
    Reference: Sattler, Mueller, Samek, Clustered Federated Learning, 2019, arXiv:1910.01991,
      algorithm 4. There norms are absolute, and all clients take part in every round. Ours
      judges a group by those of its clients that were heard; the others choose later by their
      update at the model of the split, as new clients do in algorithm 3, against the mean
      of each side.
    """
    client = in_group(local(optimizer, batches, weighting=weighting), _by_slot)
    updater = server_split(
        server, groups, eps1=eps1, eps2=eps2, gamma_max=gamma_max, gap=gap, norms=norms
    )
    return compose(
        client,
        with_updates(grouped(groups, collect=("client",))),
        updater,
        model_of=model_of_slot,
        shared=False,
        groups=groups,
    )


def _by_slot(said: Report, received: Branch, ctx: Context) -> tuple[Array, dict[str, Array]]:
    """Reports go to the client's slot, or from a fork to none; the slot is told in both cases."""
    del said
    return received.group, {"client": ctx.member.id, "group": received.slot}
