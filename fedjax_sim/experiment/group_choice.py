"""How many groups there are, and which kernel finds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fedjax_sim.core.checks import InputError, choice, integer
from fedjax_sim.data.federated import Shards
from fedjax_sim.experiment.group_features import Measure, dealt_anew
from fedjax_sim.grouping import (
    Grouper,
    agglomerative,
    density,
    kmeans,
    recursive_bipartition,
    spectral,
)
from fedjax_sim.grouping.similarity import cosine

AUTO = "auto"
KMEANS, WARD, SPECTRAL, CUT, DENSITY = (
    "kmeans", "agglomerative", "spectral", "bipartition", "density",
)  # fmt: skip
KERNELS = (KMEANS, WARD, SPECTRAL, CUT, DENSITY)
FIND_THE_NUMBER = (CUT, DENSITY)
"""Kernels that need not be told how many groups there are."""
_SQUARE = 20_000  # clients up to which N x N numbers are made
_DEVIATIONS, _FLOOR = 4.0, 0.05


@dataclasses.dataclass(frozen=True)
class Count:
    """Why there are so many groups.

    Attributes:
      k: the number.
      tried: the numbers of groups of which a further split was tried.
      gains: how much of the inertia each split explains, as a difference of logarithms.
      chance: what it explains, on average, where examples are dealt anew within the groups.
      bars: what it must exceed.
      limited: whether the largest number tried was reached.
    """

    k: int
    tried: tuple[int, ...]
    gains: tuple[float, ...]
    chance: tuple[float, ...]
    bars: tuple[float, ...]
    limited: bool


def count_groups(
    measure: Measure, data: Shards, features: np.ndarray, *, most: int, draws: int, seed: int
) -> Count:
    """Split as long as a split explains more than chance.

    Groups are those of Ward's tree. Whether k of them are enough is asked of the data: were the
    clients of each group alike, then dealing its examples anew among them would change
    nothing. So the features are measured again on data dealt anew, `draws` times, and the
    split into k + 1 groups counts only if it lowers the log inertia by more than the mean of
    what it does there plus four standard deviations (a deviation of at least 5 % of the mean).
    Unlike a gap statistic or silhouette it can answer 1, and knows how noisy the features of
    clients with few examples are.

    Args:
      measure: from data to features.
      data: training examples.
      features: `measure(data)`, float64 `[N, d]`.
      most: the largest number of groups.
      draws: how often data are dealt anew for each number.
      seed: of the dealing.

    Returns:
      `Count`.

    Cost: `draws` measurements and trees, O(N^2) each, for each number up to the answer.
    """
    from scipy.cluster.hierarchy import fcluster

    rng = np.random.default_rng([seed, 0x6209])
    most = min(most, len(features))
    if most == 1:
        return Count(1, (), (), (), (), limited=False)
    tree = _ward(features)
    gains: list[float] = []
    chance: list[float] = []
    bars: list[float] = []
    while len(gains) < most - 1 and (not gains or gains[-1] > bars[-1]):
        k = len(gains) + 1
        ids = fcluster(tree, k, "maxclust") - 1
        null = [_gain(_ward(measure(dealt_anew(data, ids, rng))), k) for _ in range(draws)]
        mean = float(np.mean(null))
        gains.append(_gain(tree, k))
        chance.append(mean)
        bars.append(mean + _DEVIATIONS * max(float(np.std(null, ddof=1)), _FLOOR * mean))
    limited = gains[-1] > bars[-1]
    tried = tuple(range(1, len(gains) + 1))
    k = len(gains) + limited
    return Count(k, tried, tuple(gains), tuple(chance), tuple(bars), limited)


def _ward(features: np.ndarray) -> np.ndarray:
    from scipy.cluster.hierarchy import linkage

    return linkage(features, "ward")


def _gain(tree: np.ndarray, k: int) -> float:
    """By how much a split of k groups into k + 1 lowers the log inertia; 0 where none is left."""
    inertia = np.concatenate([[0.0], np.cumsum(tree[:, 2] ** 2) / 2])
    n, scale = len(tree) + 1, max(inertia[-1], 1e-300)
    before, after = (max(inertia[n - j], 1e-12 * scale) for j in (k, k + 1))
    return float(np.log(before / after))


def grouper(name: str, k: int | None) -> Grouper:
    """A kernel by name.

    Raises:
      InputError: unknown, or one that finds the number itself and was given it.
    """
    choice("kernel", name, KERNELS)
    if name == DENSITY:
        if k is not None:
            raise InputError("groups", k, "is found by density; leave it to auto")
        return density(least=3, method="hdbscan")
    if name == CUT:
        return recursive_bipartition(most=k)
    if k is None:
        raise InputError("groups", AUTO, f"{name} must be told how many")
    makers: dict[str, Callable[..., Grouper]] = {
        KMEANS: lambda: kmeans(k, restarts=10),
        WARD: lambda: agglomerative(k, linkage="ward"),
        SPECTRAL: lambda: spectral(k),
    }
    return makers[name]()


def fit(
    kernel: Grouper, features: np.ndarray, seed: int, name: str = "kernel"
) -> tuple[np.ndarray, Any]:
    """`(ids int64 [N], info)` of a kernel on features, by their cosines where it takes those.

    Raises:
      InputError: N x N numbers that would not fit.
    """
    n, key = len(features), jax.random.key(seed)
    square = kernel.takes == "similarity" or kernel.host
    if square and n > _SQUARE:
        remedy = f"makes {n:,} x {n:,} numbers ({4 * n * n / 1e9:,.0f} GB); give kmeans"
        raise InputError("kernel", name, remedy)
    x = cosine(features) if kernel.takes == "similarity" else features
    found = kernel.fit(key, x)
    return np.asarray(found.ids, np.int64), found.info


def checked_groups(groups: Any, n_clients: int) -> int | None:
    """A number of groups, or None for `auto`."""
    if groups == AUTO:
        return None
    if isinstance(groups, str):
        raise InputError("groups", groups, 'must be a whole number or "auto"')
    return integer("groups", groups, least=1, most=n_clients)
