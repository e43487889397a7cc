"""Per-FedAvg: a global model that is good after one step of each client."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.algorithms.fine_tune import fitted
from fedjax_sim.clients.meta import meta
from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core.checks import integer, number
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def perfedavg(
    optimizer: Any,
    *,
    adapt_rate: Array | float = 0.02,
    adapt_steps: int = 1,
    hessian: str = "none",
    delta: Array | float = 1e-3,
    draws: int = 3,
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "uniform",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """FedAvg on `F_i(w) = f_i(w - alpha grad f_i(w))`; a client uses the model after such a step.

    A local step: `g = grad f(w - alpha grad f(w; D); D')`, `w <- w - opt(g - alpha H(w; D'') g)`.
    With `alpha = 0` and `draws = 1` it is FedAvg.

    Args:
      optimizer: client optimizer (optax) of w, or a function of named numbers; its rate is the
        paper's beta.
      adapt_rate: alpha, in training and before use.
      adapt_steps: steps before use, each on one batch; the paper takes one.
      hessian: `none` (first order, FO), `exact` (a directional derivative), or `difference` of
        two gradients (HF). Alpha times the largest curvature should stay below 1, with the Hessian
        above all: on the bundled digits 0.02 trains, 0.1 does not.
      delta: of the difference.
      draws: batches a local step, 3 in the paper; see `clients.meta`.
      batches: made from `epochs, steps, batch_size, last, shuffle`; they count the local steps.
      weighting: the paper's mean is uniform.
      server: server optimizer (optax).

    Cost: 2 gradients a local step, about 4 with the Hessian; `adapt_steps` more of every client
      in an evaluation; no rows; FedAvg's traffic.
    Reference: Fallah, Mokhtari, Ozdaglar, Personalized Federated Learning: A Meta-Learning
      Approach, 2020, arXiv:2002.07948, algorithm 1, and its section on FO and HF.
    """
    number("algorithm.adapt_rate", adapt_rate, least=0)
    number("algorithm.delta", delta, above=0)
    steps = integer("algorithm.adapt_steps", adapt_steps, least=1)
    step = functools.partial(meta, hessian=hessian, delta=delta, draws=draws, weighting=weighting)
    passes = dataclasses.replace(batches, epochs=None, steps=steps)
    return compose(
        step(optimizer, adapt_rate, batches),
        mean(),
        server_opt(server),
        model_of=fitted(optax.sgd(adapt_rate), passes),
    )
