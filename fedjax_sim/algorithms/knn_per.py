"""kNN-Per: FedAvg, and every client looks up its own examples when it predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.clients.memory import nearest_examples, remember
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.core.checks import integer, number
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.compose import OfTask, Recipe, compose, recipe
from fedjax_sim.server.optimizer import server_opt


@recipe
def knn_per(
    optimizer: Any,
    *,
    neighbours: int = 10,
    capacity: int = 1000,
    memory_share: Array | float = 0.3,
    width: Array | float = 1.0,
    features: str = "features",
    batches: Batches = Batches(),  # noqa: B008 - frozen
    weighting: Weighting = "examples",
    server: Any = optax.sgd(1.0),  # noqa: B008 - pure functions
) -> Recipe:
    """FedAvg's model; a client predicts by it and by the nearest of its own training examples.

    `lambda q(x) + (1 - lambda) softmax(f(x))`, where q counts the classes of the k nearest
    examples by `exp(-|phi(x) - phi(x_i)| / width)` and phi is f's own representation. Training is
    FedAvg's to the last bit; `memory_share = 0` predicts by f alone.

    Args:
      optimizer: client optimizer (optax), or a function of named numbers.
      neighbours: k.
      capacity: examples that a client remembers at most.
      memory_share: lambda, in [0, 1].
      width: of the kernel.
      features: phi: the model's `features`, or its `outputs` where it shows none.
      batches: made from `epochs, steps, batch_size, last, shuffle`.
      weighting: by examples, as FedAvg.
      server: server optimizer (optax).

    Cost: FedAvg's; in each evaluation a forward pass over up to `capacity` training examples of
      every client at once, and as many distances a test example; no rows.
    Reference: Marfoq, Neglia, Kameni, Vidal, Personalized Federated Learning through Local
      Memorization, 2021, arXiv:2111.09360, section 3, from memory. The paper tunes lambda for
      each client on held-out examples; here it is one number.
    """
    k = integer("algorithm.neighbours", neighbours, least=1)
    most = integer("algorithm.capacity", capacity, least=1)
    number("algorithm.memory_share", memory_share, least=0, most=1)
    number("algorithm.width", width, above=0)

    def model_of(task: Task) -> Callable[..., Model]:
        read = remember(task, most, memory_share, width, by=features)
        return lambda ctx, state, row, data: read(ctx, state.model, data)

    return compose(
        local(optimizer, batches, weighting=weighting),
        mean(),
        server_opt(server),
        model_of=OfTask(model_of),
        predict=nearest_examples(k, by=features),
    )
