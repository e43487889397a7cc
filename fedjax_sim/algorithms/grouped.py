"""Groups of clients, found by their first updates or given, each with a model of its own."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.grouped import grouped as mean_by_group
from fedjax_sim.clients.choose import by_sketch, in_group
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core import tree
from fedjax_sim.core.types import Array, Context, Model, PyTree
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.grouping.types import Grouper
from fedjax_sim.server.many import GroupOf, fixed_groups, refuse_other_count, server_many
from fedjax_sim.server.regroup import model_of_member, server_regroup


@recipe
def grouped(
    optimizer: Any,
    *,
    groups: int = 2,
    warmup: int = 1,
    every: int = 0,
    sketch: int = 256,
    separation: Array | float = 0.3,
    ids: Any = None,
    grouper: Grouper | None = None,
    rates: Any = None,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """One model for all at first; from round `warmup` on one for each group of alike updates.

    `x_m <- x_m - server(mean over group m of (x_m - y_i))`. Groups are k-means, by cosine, of
    random projections of the clients' updates of the common model. Clients that come later join
    by their first update and nobody trains again for their sake; see
    `server.regroup.server_regroup`. With `groups=1`, or before there are groups, it is FedAvg.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      groups: M.
      warmup: rounds before clients are grouped.
      every: rounds from one regrouping to the next, each of which costs a round; 0 for never.
      sketch: length of a projection; the cosine of two updates is off by about
        `1 / sqrt(sketch)`.
      separation: silhouette, in [-1, 1], below which groups are not believed and everyone stays
        together; -1 for always M groups. Without groups it comes to 0.1 or 0.2.
      ids: int `[N]`, the groups where they are known: then nothing is sketched or found.
      grouper: in place of k-means by cosine.
      rates: `[M]` factors of the groups' server steps.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples, as in the paper.
      server: optimizer of each group's model, with a state a group.

    Cost: FedAvg's and O(P) a client for its sketch; memory M x P + N x sketch; a client
      sends `sketch` numbers besides.
    Reference: Duan et al., FedGroup: Efficient Clustered Federated Learning via Decomposed
      Data-Driven Measure, 2020, arXiv:2010.06870, algorithms 2 and 3. The paper groups a sample
      of pre-trained clients by the cosines to the updates' principal directions; ours groups
      all that took part by the cosines of random projections, which need no P x P work at the
      server.
    """
    client = local(optimizer, batches, weighting=weighting)
    if ids is not None:
        return _of_known(client, groups, ids, rates, server)
    rule: dict[str, Any] = {"dim": sketch, "separation": separation, "grouper": grouper}
    rule |= {"warmup": warmup, "every": every, "rates": rates}
    updater = server_regroup(server, groups, **rule)
    return compose(
        in_group(client, by_sketch(sketch)),
        mean_by_group(groups, collect=("client", "sketch", "group")),
        updater,
        model_of=model_of_member,
        shared=False,
        groups=groups,
    )


def _of_known(client: Any, groups: int, ids: Any, rates: Any, server: Any) -> Recipe:
    of = fixed_groups(groups, ids)
    updater = server_many(server, groups, start="same", rates=rates, of=of)

    def init(model: Model, n_clients: int) -> Any:
        refuse_other_count(ids, n_clients)
        return updater.init(model, n_clients)

    return compose(
        in_group(client),
        mean_by_group(groups),
        updater._replace(init=init),
        model_of=_model_by(of),
        shared=False,
        groups=groups,
    )


def _model_by(of: GroupOf) -> Any:
    def model_of(ctx: Context, state: Any, row: PyTree, data: Any) -> Model:
        del row, data
        return tree.take(state.model, of(ctx.member))

    return model_of
