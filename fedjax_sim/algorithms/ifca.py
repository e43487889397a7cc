"""IFCA: M models, of which each client trains the one that fits its data best."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.grouped import grouped as mean_by_group
from fedjax_sim.clients.choose import Client, chosen_model, remembers_group
from fedjax_sim.clients.phases import best_first
from fedjax_sim.clients.sgd import Weighting, gradient, local
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Array, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import OfTask, Recipe, compose, recipe
from fedjax_sim.server.many import server_many


@recipe
def ifca(
    optimizer: Any,
    *,
    groups: int = 2,
    start: str | Model = "fresh",
    spread: Array | float = 0.1,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """Each client trains the model of lowest loss on its data; each group averages its own.

    `m_i = argmin_m f_i(x_m)` and `x_m <- x_m - server(mean over m_i = m of (x_m - y_i))`, y_i
    after local training from `x_{m_i}`. With `groups=1` it is FedAvg. A client remembers its
    last group; one that never took part takes the model of the lowest loss on its first
    examples (`clients.choose.chosen_model`).

    Alternating minimisation ends where it begins well: several starts and the best of their
    training losses, or a start from `grouped`.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      groups: M.
      start: the first models: `fresh`, `perturbed`, `same`, or a `Model` of leaves `[M, ...]`;
        see `server.many.server_many`. Alike, all clients go to group 0 and stay there.
      spread: standard deviation of a perturbation.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: the paper's mean is uniform.
      server: optimizer of each group's model, with a state a group.

    Cost: FedAvg's and M forward passes over a client's examples; M x P goes down, P up;
      memory M x P.
    Reference: Ghosh et al., An Efficient Framework for Clustered Federated Learning, 2020,
      arXiv:2006.04088, algorithm 1, model averaging.
    """
    client = best_first(local(optimizer, batches, weighting=weighting))
    updater = server_many(server, groups, start=start, spread=spread)
    return choosing(client, groups, updater)


@recipe
def ifca_gradient(
    optimizer: Any,
    *,
    groups: int = 2,
    start: str | Model = "fresh",
    spread: Array | float = 0.1,
    weighting: Weighting = "uniform",
) -> Recipe:
    """IFCA with one exact gradient a client a round; `optimizer` is the server's, one a group.

    `x_m <- x_m - rate / |cohort| sum over m_i = m of grad f_i(x_m)`: the sum is divided by the
    whole cohort's weight, as in the paper, not by the group's.

    Args:
      optimizer: server optimizer (optax), or a function of named numbers.
      groups: M.
      start: see `ifca`.
      spread: see `ifca`.
      weighting: the paper's is uniform.

    Cost: M forward passes and one gradient over each client's examples.
    Reference: Ghosh et al., An Efficient Framework for Clustered Federated Learning, 2020,
      arXiv:2006.04088, algorithm 1, gradient averaging.
    """
    client = best_first(gradient(weighting=weighting))
    updater = server_many(optimizer, groups, start=start, spread=spread, share=True)
    return choosing(client, groups, updater)


def choosing(client: Client, groups: int, server: ServerUpdate) -> Recipe:
    """A recipe whose clients choose one of M models and remember which, each group averaging."""
    return compose(
        remembers_group(client),
        mean_by_group(groups),
        server,
        model_of=_best_model(),
        shared=False,
        groups=groups,
    )


def _best_model() -> OfTask:
    """`model_of` for clients that remember a group, or choose by their losses."""

    def build(task: Any) -> Any:
        return lambda ctx, state, row, data: chosen_model(ctx, task, state.model, row, data)

    return OfTask(build)
