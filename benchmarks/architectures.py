"""The workloads' models as lists of layers: sizes, work, and the weights that everyone starts from.

NumPy only, so that each rival's own environment can import it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Dense:
    """`x @ w [inputs, outputs] + b`, with ReLU unless it is the last layer."""

    inputs: int
    outputs: int

    @property
    def kernel(self) -> tuple[int, ...]:
        """Shape of the weights."""
        return (self.inputs, self.outputs)

    @property
    def multiplies(self) -> int:
        """Multiplications of one example's forward pass."""
        return self.inputs * self.outputs


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution at stride 1, NHWC and HWIO, then ReLU; `pool` ends in a 2x2 max-pool.

    Attributes:
      side: of the square kernel.
      inputs: channels in.
      outputs: channels out.
      image: side of the square input image.
      padding: `"VALID"` or `"SAME"`.
      pool: a 2x2 max-pool follows.
    """

    side: int
    inputs: int
    outputs: int
    image: int
    padding: str = "VALID"
    pool: bool = False

    @property
    def kernel(self) -> tuple[int, ...]:
        """Shape of the weights, HWIO."""
        return (self.side, self.side, self.inputs, self.outputs)

    @property
    def image_out(self) -> int:
        """Side of the output before pooling."""
        return self.image if self.padding == "SAME" else self.image - self.side + 1

    @property
    def multiplies(self) -> int:
        """Multiplications of one example's forward pass; SAME counts its padding."""
        return self.image_out**2 * math.prod(self.kernel)


Layer = Dense | Conv


def perceptron(*widths: int) -> tuple[Layer, ...]:
    """Dense layers from inputs to classes."""
    return tuple(Dense(a, b) for a, b in itertools.pairwise(widths))


CNN_W1: tuple[Layer, ...] = (
    Conv(3, 3, 32, image=32),
    Conv(3, 32, 64, image=30, pool=True),
    Dense(14 * 14 * 64, 128),
    Dense(128, 10),
)
"""The CIFAR-10 CNN of pfl-research's table 1."""

CNN_MCMAHAN: tuple[Layer, ...] = (
    Conv(5, 1, 32, image=28, padding="SAME", pool=True),
    Conv(5, 32, 64, image=14, padding="SAME", pool=True),
    Dense(7 * 7 * 64, 512),
    Dense(512, 10),
)
"""The MNIST CNN of McMahan et al. 2017."""


def parameters(layers: tuple[Layer, ...]) -> int:
    """P: weights and biases."""
    return sum(math.prod(layer.kernel) + layer.kernel[-1] for layer in layers)


def training_flops(layers: tuple[Layer, ...]) -> int:
    """FLOPs of forward and backward for one example by the minimal program.

    A forward product, a weight gradient and, except at the first layer, an input gradient;
    biases, activations and pooling are not counted.
    """
    return 2 * (3 * sum(layer.multiplies for layer in layers) - layers[0].multiplies)


def initial_weights(layers: tuple[Layer, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """`(kernel, zero bias)` of every layer: normal with variance 1 / fan-in, float32."""
    rng = np.random.default_rng(1)
    return [
        (
            (rng.normal(size=layer.kernel) / np.sqrt(math.prod(layer.kernel[:-1]))).astype("f4"),
            np.zeros(layer.kernel[-1], np.float32),
        )
        for layer in layers
    ]
