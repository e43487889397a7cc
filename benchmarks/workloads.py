"""The shared workloads: the same clients, examples and steps for every simulator.

NumPy only, so that each rival's own environment can import it.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Workload:
    """Equal clients of a linear-teacher classification problem.

    Attributes:
      widths: layer widths from inputs to classes.
      clients: population N.
      examples: examples a client.
      cohort: clients a round K.
      batch: batch size B; one epoch a round.
      rate: client learning rate; the server averages uniformly.
      rounds: rounds of one timed block.
    """

    widths: tuple[int, ...]
    clients: int = 1000
    examples: int = 50
    cohort: int = 50
    batch: int = 10
    rate: float = 0.1
    rounds: int = 50

    @property
    def steps(self) -> int:
        """Client steps in a round."""
        return self.cohort * -(-self.examples // self.batch)

    @property
    def gigaflop(self) -> float:
        """Of one round by the minimal program: no input gradient at the first layer."""
        pairs = list(zip(self.widths, self.widths[1:], strict=False))
        multiply = sum(a * b for a, b in pairs) * 3 - pairs[0][0] * pairs[0][1]
        return 2 * multiply * self.cohort * self.examples / 1e9


WORKLOADS = {
    "W1-lin": Workload((60, 10), rounds=100),
    "W1-mlp": Workload((784, 200, 200, 10), rounds=10),
}


def examples(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Inputs `[N, n, d]` and int labels `[N, n]` of a fixed random linear teacher."""
    rng = np.random.default_rng(0)
    shape = (workload.clients, workload.examples, workload.widths[0])
    x = rng.normal(size=shape) * (4 / workload.widths[0]) ** 0.5
    teacher = rng.normal(size=(workload.widths[0], workload.widths[-1]))
    return x.astype(np.float32), (x @ teacher).argmax(-1).astype(np.int32)


def initial(workload: Workload) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights `[in, out]` and zero biases of every layer, the same for everyone."""
    rng = np.random.default_rng(1)
    pairs = zip(workload.widths, workload.widths[1:], strict=False)
    return [
        ((rng.normal(size=(a, b)) / np.sqrt(a)).astype(np.float32), np.zeros(b, np.float32))
        for a, b in pairs
    ]
