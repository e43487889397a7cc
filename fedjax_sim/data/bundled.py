"""Data that need no download."""

from __future__ import annotations

import numpy as np

from fedjax_sim.core.checks import integer, number
from fedjax_sim.data.build import from_arrays
from fedjax_sim.data.federated import Federation
from fedjax_sim.data.partition_base import Partition
from fedjax_sim.data.partition_labels import dirichlet
from fedjax_sim.data.readers.digits import read_digits


def stratified(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """A random subset that holds the same share of every class.

    Args:
      labels: int `[E]`.
      fraction: share to pick, in [0, 1).
      rng: source of the draw.

    Returns:
      bool `[E]`, True for `floor(fraction n_c)` or one more of each class c, and for
      `round(fraction E)` in all up to one a class.
    """
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    edges = np.floor(np.arange(len(order) + 1) * fraction + 0.5)
    picked = np.zeros(len(labels), bool)
    picked[order] = np.diff(edges) > 0
    return picked


def digits(
    partition: Partition | None = None,
    *,
    seed: int = 0,
    image: bool = False,
    test_fraction: float = 0.0,
    validation_fraction: float = 0.0,
    central_fraction: float = 0.2,
) -> Federation:
    """1,797 handwritten digits of 8 x 8 pixels, bundled with scikit-learn.

    Args:
      partition: who holds what; None is `dirichlet(clients=100, alpha=0.3)`.
      seed: of the central split, the partition and the clients' splits.
      image: x rows of shape `[8, 8, 1]` instead of `[64]`; pixels lie in [0, 1].
      test_fraction: share of each client's examples that it is tested on.
      validation_fraction: share of each client's examples that it may tune on.
      central_fraction: share of all examples, equal in every class, held by nobody.

    Returns:
      A `Federation` with 10 classes.

    Reference: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
    Machine Learning Repository, 1998 (its test part), CC BY 4.0.
    """
    seed = integer("seed", seed, least=0)
    number("central_fraction", central_fraction, least=0, below=1)
    x, y = read_digits()
    x = (x / 16.0).astype(np.float32).reshape((-1, 8, 8, 1) if image else (-1, 64))
    held_out = stratified(y, central_fraction, np.random.default_rng([seed, 1]))
    return from_arrays(
        x[~held_out],
        y[~held_out],
        dirichlet(clients=100, alpha=0.3) if partition is None else partition,
        test=(x[held_out], y[held_out]) if held_out.any() else None,
        seed=seed,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        n_classes=10,
        name="digits",
    )
