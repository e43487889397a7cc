"""FedAMP: clients whose models are alike draw each other closer still."""

from __future__ import annotations

from typing import Any

import optax

from fedjax_sim.aggregation.by_client import by_client
from fedjax_sim.clients.neighbours import begins_with, by_cosine, by_distance
from fedjax_sim.clients.sgd import local
from fedjax_sim.core import tree
from fedjax_sim.core.checks import choice, number
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Array, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.engine.plan import refuse_oversize
from fedjax_sim.server.table import Table, model_in_table, server_table
from fedjax_sim.transforms.correction import add_proximal

ATTENTION = ("distance", "cosine")


@recipe
def fedamp(
    optimizer: Any,
    *,
    penalty: Array | float = 1.0,
    alpha: Array | float = 10.0,
    sigma: Array | float = 10.0,
    attention: str = "distance",
    own_share: Array | float = 0.5,
    batches: Batches = Batches(),  # noqa: B008 - frozen
) -> Recipe:
    """Each client trains from, and is tied to, its own mixture of all clients' models.

    `u_i = sum_j xi_ij w_j`, `w_i ~ argmin f_i(w) + lambda / (2 alpha) |w - u_i|^2` by local steps
    from u_i. With attention by `distance`, `xi_ij = alpha / sigma exp(-|w_i - w_j|^2 / sigma)` for
    j other than i and xi_ii is the rest; by `cosine` (the paper's HeurFedAMP) xi_ii is
    `own_share` and the others have `softmax(sigma cos(w_i, w_j))` of what is left. The personal
    model is w_i. `own_share=1` under `cosine` is training alone, tied to one's last model.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      penalty: lambda; times the rate over alpha it must stay below 2.
      alpha: the paper's alpha_k, the same in all rounds; a model at no distance has alpha / sigma.
      sigma: width of the squared distances, or sharpness of the cosines.
      attention: `distance` or `cosine`.
      own_share: xi_ii under `cosine`, in [0, 1].
      batches: made from `epochs, steps, batch_size, last, shuffle`.

    Cost: no further pass; N x P at the server on every device, K x P for the reports; K x N x P
      multiply-adds a round, as only the cohort's mixtures are made; FedAvg's traffic.
    Reference: Huang, Chu, Zhou, Wang, Liu, Pei, Zhang, Personalized Cross-Silo Federated Learning
      on Non-IID Data, 2020, arXiv:2007.03797, algorithm 1 and section on HeurFedAMP, from memory.
      The paper's clients all take part in each round; here others are those who ever reported,
      and who is absent stays as it was. Where the weights of others add up to more than 1 they are
      scaled to 1 instead of making xi_ii negative.
    """
    number("algorithm.penalty", penalty, least=0)
    number("algorithm.alpha", alpha, above=0)
    number("algorithm.sigma", sigma, above=0)
    number("algorithm.own_share", own_share, least=0, most=1)
    choice("algorithm.attention", attention, ATTENTION)
    rule = by_distance(alpha, sigma) if attention == "distance" else by_cosine(own_share, sigma)
    tied = optax.chain(add_proximal(penalty / alpha), optax.with_extra_args_support(optimizer))
    return compose(
        begins_with(local(tied, batches, weighting="uniform"), rule),
        by_client(),
        that_fits(server_table()),
        model_of=model_in_table,
        shared=False,
    )


def that_fits(server: ServerUpdate) -> ServerUpdate:
    """A server of one model a client, refused with the figures where memory cannot hold them."""

    def init(model: Model, n_clients: int) -> Table:
        each = tree.n_bytes(tree.shapes(model))
        remedy = "take fewer clients or a smaller model"
        refuse_oversize("clients", f"{n_clients} clients' models", n_clients * each, 1, remedy)
        return server.init(model, n_clients)

    return server._replace(init=init)
