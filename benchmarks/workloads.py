"""The shared workloads: the same clients, examples and steps for every simulator.

NumPy only, so that each rival's own environment can import it. `WORKLOADS[name]` describes
one, `flat(workload)` gives its examples, `initial(workload)` the weights to start from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from architectures import (
    CNN_MCMAHAN,
    CNN_W1,
    Dense,
    Layer,
    initial_weights,
    parameters,
    perceptron,
    training_flops,
)
from populations import Flat, lognormal_sizes, mnist, pfllib_sizes, small_sizes, synthetic

__all__ = ["WORKLOADS", "Flat", "Workload", "data_source", "examples", "flat", "initial"]


@dataclasses.dataclass(frozen=True)
class Workload:
    """Federated averaging, written down so that every simulator does the same work.

    Uniform cohorts without replacement, a shuffle each epoch, the remainder as a smaller
    batch, client SGD at `rate`, server SGD at 1.0, the clients' mean unweighted where they
    are equal (rivals that weigh by examples then do the same).

    Attributes:
      layers: the model, first layer first.
      inputs: shape of one example.
      clients: population N.
      examples: examples a client; 0 where `sizes` says.
      cohort: clients a round K.
      batch: batch size B.
      epochs: E.
      rate: client learning rate.
      rounds: after so many rounds the losses of two simulators are compared.
      sizes: `(clients) -> int64 [N]` for clients of unequal size.
      mnist: the examples are MNIST where it is at hand.
      pool: rows really held; clients' windows overlap in them. 0: every client has its own.
    """

    layers: tuple[Layer, ...]
    inputs: tuple[int, ...]
    clients: int = 1000
    examples: int = 50
    cohort: int = 50
    batch: int = 10
    epochs: int = 1
    rate: float = 0.1
    rounds: int = 50
    sizes: Callable[[int], np.ndarray] | None = None
    mnist: bool = False
    pool: int = 0

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths from inputs to classes, of a model that has only dense layers."""
        dense = [layer for layer in self.layers if isinstance(layer, Dense)]
        if len(dense) < len(self.layers):
            raise ValueError("a model with convolutions has no widths; read `layers`")
        return (dense[0].inputs, *(layer.outputs for layer in dense))

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.layers[-1].kernel[-1]

    @property
    def parameters(self) -> int:
        """P."""
        return parameters(self.layers)

    def client_sizes(self) -> np.ndarray:
        """Examples of every client, int64 `[N]`."""
        if self.sizes is None:
            return np.full(self.clients, self.examples, np.int64)
        return self.sizes(self.clients)

    @property
    def steps(self) -> float:
        """Client steps in a round; the mean over cohorts where clients are unequal."""
        return self.cohort * self.epochs * float((-(-self.client_sizes() // self.batch)).mean())

    @property
    def gigaflop(self) -> float:
        """Of one round by the minimal program: no input gradient at the first layer."""
        seen = self.cohort * self.epochs * float(self.client_sizes().mean())
        return training_flops(self.layers) * seen / 1e9


LINEAR, MLP = perceptron(60, 10), perceptron(784, 200, 200, 10)
RAGGED = {"clients": 10_000, "examples": 0, "cohort": 500, "sizes": lognormal_sizes}

WORKLOADS: dict[str, Workload] = {
    "W1-lin": Workload(LINEAR, (60,), rounds=100),
    "W1-mlp": Workload(MLP, (784,), rounds=20),
    "W1-mlp-B50": Workload(MLP, (784,), batch=50, rounds=20),
    "W1-cnn": Workload(CNN_W1, (32, 32, 3), rounds=4),
    "W1-cnn-B50": Workload(CNN_W1, (32, 32, 3), batch=50, rounds=4),
    "W2-E1": Workload(
        CNN_MCMAHAN, (28, 28, 1), clients=100, examples=600, cohort=10, rounds=2, mnist=True
    ),
    "W2-E5": Workload(
        CNN_MCMAHAN,
        (28, 28, 1),
        clients=100,
        examples=600,
        cohort=10,
        epochs=5,
        rounds=1,
        mnist=True,
    ),
    "W3-lin": Workload(LINEAR, (60,), rounds=4, **RAGGED),
    "W3-mlp": Workload(MLP, (784,), rounds=2, pool=200_000, **RAGGED),
    "W4": Workload(
        CNN_MCMAHAN,
        (28, 28, 1),
        clients=20,
        examples=0,
        cohort=20,
        rounds=1,
        sizes=pfllib_sizes,
        mnist=True,
    ),
    "W5": Workload(
        perceptron(32, 10),
        (32,),
        clients=1_000_000,
        examples=0,
        cohort=10_000,
        batch=4,
        rounds=10,
        sizes=small_sizes,
    ),
}
"""W6 is a sweep of W1-lin: 64 seeds x 8 rates (`SWEEP_RATES`), 50 rounds each."""

SWEEP_SEEDS, SWEEP_ROUNDS = 64, 50
SWEEP_RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def flat(workload: Workload) -> Flat:
    """All examples of all clients, the same for everyone."""
    sizes = workload.client_sizes()
    ends = np.cumsum(sizes)
    offsets, rows = ends - sizes, int(ends[-1])
    if workload.pool:
        rows = workload.pool
        offsets = offsets % (rows - int(sizes.max()))
    found = mnist(rows) if workload.mnist else None
    x, y = found or synthetic(workload.inputs, workload.classes, rows)
    return Flat(x, y, offsets, sizes)


def data_source(workload: Workload) -> str:
    """What `flat` gives here: `"mnist"` or `"synthetic"`."""
    return "mnist" if workload.mnist and mnist(1) else "synthetic"


def examples(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Inputs `[N, n, ...]` and int labels `[N, n]` of clients of equal size."""
    data = flat(workload)
    if workload.sizes is not None:
        raise ValueError("these clients differ in size: use flat(workload)")
    n, each = workload.clients, workload.examples
    return data.x.reshape(n, each, *workload.inputs), data.y.reshape(n, each)


def initial(workload: Workload) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (`[in, out]` or HWIO) and zero biases of every layer, the same for everyone."""
    return initial_weights(workload.layers)


def input_size(workload: Workload) -> int:
    """Numbers in one example."""
    return math.prod(workload.inputs)
