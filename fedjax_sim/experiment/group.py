"""The groups of a federation without training: who is alike, how many kinds there are."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjax_sim.core.checks import InputError, choice, integer
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.data.report import holdings_table
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.experiment import group_choice as choices
from fedjax_sim.experiment import group_features as measures
from fedjax_sim.experiment.cache_dir import keeping_programs
from fedjax_sim.experiment.group_choice import AUTO, KMEANS, Count
from fedjax_sim.experiment.group_features import FEATURES, KINDS, LABELS, UPDATES, Measure
from fedjax_sim.grouping import scores
from fedjax_sim.grouping.conflict import conflict
from fedjax_sim.grouping.types import Grouper

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULT, PICTURE = "groups.json", "groups.png"
_COUNTED = 2000  # clients of which the number of groups is asked
_DIMS = {FEATURES: 64, UPDATES: 256}
_DRAWS = {LABELS: 10, FEATURES: 10, UPDATES: 5}


@dataclasses.dataclass(frozen=True)
class Grouping:
    """The groups that were found.

    Attributes:
      ids: int64 `[N]`, each client's group, the largest group being 0; -1 where a density
        kernel leaves a client in none.
      k: groups.
      by: what clients were compared by.
      kernel: its name.
      features: float64 `[N, d]`, what the kernel saw.
      count: why there are so many, or None where the number was given or found by the kernel.
      planted: int64 `[N]`, the truth, or None.
      scores: `ari`, `nmi`, `purity` against the truth; empty where there is none.
      cosines: mean cosine of pairs of clients' features: `within` groups, `across` them, and
        `per_group` `[k]`; NaN where there are no pairs.
      federation: the data.
    """

    ids: np.ndarray
    k: int
    by: str
    kernel: str
    features: np.ndarray = dataclasses.field(repr=False)
    count: Count | None = dataclasses.field(repr=False)
    planted: np.ndarray | None = dataclasses.field(repr=False)
    scores: dict[str, float]
    cosines: dict[str, Any] = dataclasses.field(repr=False)
    federation: Federation = dataclasses.field(repr=False)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """Training examples of each label in each group, int64 `[k, C]`; None without classes."""
        if self.federation.n_classes is None:
            return None
        total = np.zeros((self.k, self.federation.n_classes), np.int64)
        inside = np.flatnonzero(self.ids >= 0)
        for block in np.array_split(inside, max(1, len(inside) // 100_000)):
            np.add.at(total, self.ids[block], holdings_table(self.federation, block))
        return total

    def facts(self) -> dict[str, Any]:
        """JSON-ready: all but the features."""
        from fedjax_sim.experiment.group_table import facts

        return facts(self)

    def table(self, width: int = 100) -> str:
        """The groups, the number's reason and the scores as text."""
        from fedjax_sim.experiment.group_table import text

        return text(self, width)

    def plot(self) -> Figure:
        """Map of the clients, label mixes, similarities, choice of the number; opens no window."""
        from fedjax_sim.experiment.group_plots import picture

        return picture(self)


@keeping_programs()
def group(
    federation: Federation,
    *,
    by: str | None = None,
    groups: int | str = AUTO,
    kernel: str | Grouper = KMEANS,
    task: Any = None,
    recipe: Recipe | None = None,
    most: int = 10,
    dim: int | None = None,
    seed: int = 0,
    devices: int | None = None,
) -> Grouping:
    """Find groups of alike clients; trains nothing (`updates`: one round, thrown away).

    Args:
      federation: the data; only training examples are looked at.
      by: `labels`, the shares of the labels; `features`, mean and mean square of the inputs;
        `updates`, what clients would send in the first round. None takes labels where there
        are classes, else features.
      groups: k, or `auto`: as many as explain more than chance (`group_choice.count_groups`).
      kernel: `kmeans`, `agglomerative` (Ward), `spectral`, `bipartition` (Sattler's),
        `density`, or a `Grouper`. The last two of the names find the number themselves.
      task: for `updates`.
      recipe: for `updates`: how clients train, such as `algorithms.fedavg(optax.sgd(0.1))`.
      most: the largest number that `auto` tries.
      dim: length of the sketches; 64 for `features`, 256 for `updates`.
      seed: of sketches, kernel, initial model and the dealing behind `auto`.
      devices: for `updates`, as in `run`.

    Returns:
      A `Grouping`.

    Raises:
      InputError: naming the argument.

    Cost: features O(E) and one round for `updates`; `auto` measures them up to ten times for
      each number it tries, on at most 2,000 random clients.
    """
    by = by or (FEATURES if federation.n_classes is None else LABELS)
    choice("by", by, KINDS)
    seed = integer("seed", seed, least=0, most=2**32 - 1)
    integer("most", most, least=1)
    k = choices.checked_groups(groups, federation.n_clients)
    name = kernel if isinstance(kernel, str) else "own"
    if isinstance(kernel, str):
        choice("kernel", kernel, choices.KERNELS)

    def made(of: Federation) -> Measure:
        return _measure(of, by, task, recipe, dim, seed, devices)

    measure = made(federation)
    features = measure(federation.train)
    count = None
    if k is None and name not in (*choices.FIND_THE_NUMBER, "own"):
        count = _count(federation, measure, features, made, most, _DRAWS[by], seed)
        k = count.k
    if k == 1:
        ids = np.zeros(federation.n_clients, np.int64)
    else:
        chosen = choices.grouper(kernel, k) if isinstance(kernel, str) else kernel
        ids = _largest_first(choices.fit(chosen, features, seed, name)[0])
    k = int(ids.max(initial=-1)) + 1
    truth = federation.meta.get("group")
    planted = None if truth is None else np.asarray(truth, np.int64)
    return Grouping(
        ids=ids,
        k=k,
        by=by,
        kernel=name,
        features=features,
        count=count,
        planted=planted,
        scores={} if planted is None else _scores(ids, planted, k),
        cosines=_cosines(features, ids, k),
        federation=federation,
    )


def _measure(
    federation: Federation,
    by: str,
    task: Any,
    recipe: Recipe | None,
    dim: int | None,
    seed: int,
    devices: int | None,
) -> Measure:
    dim = integer("dim", _DIMS.get(by, 1) if dim is None else dim, least=1)
    if by == LABELS:
        return measures.by_labels(federation.n_classes)
    if by == FEATURES:
        return measures.by_features(dim, seed)
    if task is None or recipe is None:
        field = "task" if task is None else "recipe"
        raise InputError(field, None, "is needed to see the clients' updates")
    return measures.by_updates(recipe, task, federation, dim, seed, devices=devices)


def _count(
    federation: Federation,
    measure: Measure,
    features: np.ndarray,
    made: Any,
    most: int,
    draws: int,
    seed: int,
) -> Count:
    """The number of groups, asked of some of the clients where there are many."""
    n, train = federation.n_clients, federation.train
    if n > _COUNTED:
        some = np.sort(np.random.default_rng(seed).permutation(n)[:_COUNTED])
        train = Shards(train.x, train.y, train.offsets[some], train.sizes[some])
        x, y = train.in_order()
        train = Shards(x, y, np.cumsum(train.sizes) - train.sizes, train.sizes)
        measure = made(dataclasses.replace(federation, train=train))
        features = measure(train)
    return choices.count_groups(measure, train, features, most=most, draws=draws, seed=seed)


def _largest_first(ids: np.ndarray) -> np.ndarray:
    """Groups numbered by size, empty ones left out, ties by their first client; -1 stays."""
    found, first, sizes = np.unique(ids[ids >= 0], return_index=True, return_counts=True)
    if not len(found):
        return ids.astype(np.int64)
    name = np.full(int(found.max()) + 1, -1, np.int64)
    name[found[np.lexsort((first, -sizes))]] = np.arange(len(found))
    return np.where(ids >= 0, name[np.maximum(ids, 0)], -1)


def _scores(ids: np.ndarray, planted: np.ndarray, k: int) -> dict[str, float]:
    """Clients in no group count as groups of their own, so that leaving out gains nothing."""
    alone = ids < 0
    whole = np.where(alone, k + np.cumsum(alone) - 1, ids).astype(np.int32)
    n, m = int(whole.max()) + 1, int(planted.max()) + 1
    truth = planted.astype(np.int32)
    rules = {"ari": scores.ari, "nmi": scores.nmi, "purity": scores.purity}
    return {name: float(rule(whole, truth, n, m)) for name, rule in rules.items()}


def _cosines(features: np.ndarray, ids: np.ndarray, k: int) -> dict[str, Any]:
    found = conflict(features, ids.astype(np.int32), max(k, 1))
    return {
        "within": float(found.within),
        "across": float(found.across),
        "per_group": np.asarray(found.per_group, np.float64)[:k],
    }
