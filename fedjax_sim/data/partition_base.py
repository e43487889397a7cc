"""What a partition is, and the three vectorised steps that all of them share.

Every partition is direct: it never draws again until a draw happens to fit. Labels and sizes
decide an owner for each example, `grouped` brings each client's examples together, and
`top_up` moves a few examples where a client would otherwise stay below its minimum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from fedjax_sim.core.checks import InputError

Assign = Callable[[np.ndarray | None, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class Partition:
    """A rule that deals examples to clients.

    Attributes:
      name: the factory's name, for reports.
      clients: N.
      params: the factory's arguments, plain values that can be written to a file.
      assign: `(labels [E] or None, E, rng) -> (order int64[E'], sizes int64[N])`: client i
        owns the examples `order[sizes[:i].sum() :][: sizes[i]]`, in random order. Examples
        are given out at most once; E' < E only where the rule says so.
      names: one name a client, or None.
      group: int64 `[N]`, each client's group where the rule plants groups, or None.
    """

    name: str
    clients: int
    params: dict[str, Any]
    assign: Assign = dataclasses.field(repr=False)
    names: np.ndarray | None = dataclasses.field(default=None, repr=False)
    group: np.ndarray | None = dataclasses.field(default=None, repr=False)


def require(clients: int, least: int, n_examples: int) -> None:
    """Refuse a partition that needs more examples than there are."""
    if clients * least > n_examples:
        remedy = (
            f"{clients} clients with at least {least} each need {clients * least} examples, "
            f"but there are {n_examples}; ask for at most {n_examples // least} clients"
        )
        raise InputError("partition.clients", clients, remedy)


def class_index(labels: np.ndarray | None, n_examples: int) -> tuple[np.ndarray, int]:
    """Labels as consecutive class numbers.

    Args:
      labels: one label an example `[E]`: integers, booleans or strings.
      n_examples: E.

    Returns:
      `(int64[E] in 0 .. C-1, C)` where C counts the labels that occur.

    Raises:
      InputError: without labels, or with labels that are not one class an example.
    """
    if labels is None:
        raise InputError("partition", "labels = None", "this partition deals by label; give y")
    labels = np.asarray(labels)
    if labels.shape != (n_examples,):
        remedy = f"this partition deals by label and needs one label an example: [{n_examples}]"
        raise InputError("partition.labels.shape", labels.shape, remedy)
    if labels.dtype.kind not in "iubUS":
        raise InputError(
            "partition.labels.dtype", labels.dtype, "labels must be integers or strings"
        )
    values, index = np.unique(labels, return_inverse=True)
    return index.astype(np.int64), len(values)


def grouped(
    owner: np.ndarray, clients: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Bring each client's examples together, in random order within a client.

    Args:
      owner: int `[E]`, each example's client; -1 leaves an example out.
      clients: N.
      rng: source of the order within a client.

    Returns:
      `(order int64[E'], sizes int64[N])`.
    """
    shuffle = rng.permutation(len(owner))
    order = shuffle[np.argsort(owner[shuffle], kind="stable")]
    order = order[np.count_nonzero(owner < 0) :]
    sizes = np.bincount(owner[owner >= 0], minlength=clients)
    return order.astype(np.int64), sizes.astype(np.int64)


def apportion(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers proportional to `weights` that sum to `total` (largest remainders).

    Args:
      weights: float `[N]`, nonnegative, with a positive sum unless `total` is 0.
      total: what is given out.

    Returns:
      int64 `[N]`; an entry never exceeds its exact share rounded up.
    """
    weights = np.asarray(weights, np.float64)
    if total == 0:
        return np.zeros(len(weights), np.int64)
    share = weights * (total / weights.sum())
    whole = np.floor(share).astype(np.int64)
    missing = int(total - whole.sum())
    if missing > 0:
        largest = np.argpartition(whole - share, missing - 1)[:missing]
        whole[largest] += 1
    return whole


def top_up(owner: np.ndarray, clients: int, least: int, rng: np.random.Generator) -> np.ndarray:
    """Move random examples from clients above `least` to clients below it.

    Donors give in proportion to what they have above `least`, so none falls below it.

    Args:
      owner: int `[E]` without -1; E is at least `clients * least`.
      clients: N.
      least: the smallest size a client may end with.
      rng: picks the examples that move.

    Returns:
      int64 `[E]`, the owners after the moves; the same array where nobody lacks any.
    """
    sizes = np.bincount(owner, minlength=clients)
    lack = np.maximum(least - sizes, 0)
    if not lack.any():
        return owner
    gives = apportion(np.maximum(sizes - least, 0), int(lack.sum()))
    order, sizes = grouped(owner, clients, rng)
    last_kept = np.cumsum(sizes) - gives
    leaving = np.arange(len(order)) >= np.repeat(last_kept, sizes)
    moved = owner.copy()
    moved[rng.permutation(order[leaving])] = np.repeat(np.arange(clients), lack)
    return moved
