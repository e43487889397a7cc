"""The workloads' clients: how many examples each holds, and the examples.

NumPy only, so that each rival's own environment can import it.
"""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

PROTOTYPE_NORM, NOISE_NORM, WRONG_LABELS = 3.0, 3.0, 0.2
CHUNK = 1 << 17


class Flat(NamedTuple):
    """All examples of all clients.

    Attributes:
      x: float32 `[E, ...]`.
      y: int32 `[E]`.
      offsets: int64 `[N]`; client i owns rows `offsets[i] : offsets[i] + sizes[i]`.
      sizes: int64 `[N]`.
    """

    x: np.ndarray
    y: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray


def lognormal_sizes(clients: int) -> np.ndarray:
    """W3: log-normal, mu 4, sigma 1.5, clipped to [10, 5000]; mean about 162."""
    draws = np.random.default_rng(0).lognormal(4.0, 1.5, clients)
    return np.clip(np.rint(draws), 10, 5000).astype(np.int64)


def pfllib_sizes(clients: int) -> np.ndarray:
    """W4: from 374 to 4641 with mean 2622, so that padding to the largest wastes 1.77x.

    PFLlib's split is not stored here; this curve has its extremes and its mean.
    """
    least, most, mean = 374, 4641, 4641 / 1.77
    rank = np.linspace(0, 1, clients)
    # The mean of rank ** p falls from 1/2 at p = 1 as p grows; bisect for the wanted mean.
    low, high = 0.1, 10.0
    for _ in range(60):
        power = (low + high) / 2
        if (rank**power).mean() > (mean - least) / (most - least):
            low = power
        else:
            high = power
    sizes = np.rint(least + (most - least) * rank**power).astype(np.int64)
    return np.random.default_rng(3).permutation(sizes)


def small_sizes(clients: int) -> np.ndarray:
    """W5: uniform in 4 .. 16."""
    return np.random.default_rng(4).integers(4, 17, clients)


def synthetic(shape: tuple[int, ...], classes: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise around one fixed pattern a class, with a fifth of the labels drawn at random.

    The wrong labels keep the loss, and with it the gradients, away from 0 however long a
    benchmark runs.

    Args:
      shape: of one example.
      classes: of labels.
      count: E.

    Returns:
      float32 `[E, *shape]` and int32 `[E]`.
    """
    rng, size = np.random.default_rng(0), math.prod(shape)
    patterns = rng.standard_normal((classes, size), np.float32)
    patterns *= PROTOTYPE_NORM / np.linalg.norm(patterns, axis=1, keepdims=True)
    truth = rng.integers(0, classes, count)
    x = np.empty((count, size), np.float32)
    for start in range(0, count, CHUNK):
        part = x[start : start + CHUNK]
        rng.standard_normal(part.shape, np.float32, out=part)
        part *= NOISE_NORM / math.sqrt(size)
        part += patterns[truth[start : start + CHUNK]]
    wrong = rng.random(count) < WRONG_LABELS
    y = np.where(wrong, rng.integers(0, classes, count), truth)
    return x.reshape(count, *shape), y.astype(np.int32)


def mnist(count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """MNIST's training images in [0, 1] `[E, 28, 28, 1]` and labels, shuffled.

    Args:
      count: E; beyond 60,000 the images come round again.

    Returns:
      The examples, or None where `FEDJAX_SIM_DATA` holds no `mnist/` folder.
    """
    folder = Path(os.environ.get("FEDJAX_SIM_DATA", "")) / "mnist"
    if not (folder / "train-images-idx3-ubyte.gz").exists():
        return None
    images = _idx(folder / "train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
    labels = _idx(folder / "train-labels-idx1-ubyte.gz", 8)
    order = np.resize(np.random.default_rng(5).permutation(len(labels)), count)
    return images[order].astype(np.float32) / 255, labels[order].astype(np.int32)


def _idx(path: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
