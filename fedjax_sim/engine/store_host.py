"""Client rows in the host's memory, and what every keeper of rows outside the device can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from fedjax_sim.core.types import PyTree

_SMALL_ROW = 4096  # bytes up to which NumPy's indexing beats one copy a row

Leaves = Sequence[np.ndarray]


class Rows(Protocol):
    """N rows outside the device, of which those never written cost nothing."""

    @property
    def written(self) -> np.ndarray:
        """Bool `[N]`, which rows were ever written; the others may not be read."""
        ...

    def read(self, ids: np.ndarray, into: Leaves, at: np.ndarray) -> None:
        """Copy rows `ids` `[n]` into places `at` `[n]` of leaves `[U, ...]`."""
        ...

    def write(self, ids: np.ndarray, leaves: Leaves, at: np.ndarray) -> None:
        """Copy places `at` `[n]` of leaves `[U, ...]` over rows `ids` `[n]`, which are distinct."""
        ...


class HostRows:
    """Rows in memory, one array `[N, ...]` a leaf; its pages come when rows are written.

    Attributes:
      written: see `Rows`.
      stale: bool `[N]`, rows written since it was last cleared.
      leaves: the arrays.
    """

    def __init__(self, row: PyTree, n_clients: int) -> None:
        """Rows like `row` (shapes of one client's leaves) for N clients, none written."""
        shapes = jax.tree.leaves(row)
        self.leaves = [np.zeros((n_clients, *s.shape), s.dtype) for s in shapes]
        self.written = np.zeros(n_clients, bool)
        self.stale = np.zeros(n_clients, bool)

    def read(self, ids: np.ndarray, into: Leaves, at: np.ndarray) -> None:
        """See `Rows`."""
        for mine, out in zip(self.leaves, into, strict=True):
            copy_rows(mine, ids, out, at)

    def write(self, ids: np.ndarray, leaves: Leaves, at: np.ndarray) -> None:
        """See `Rows`."""
        for mine, new in zip(self.leaves, leaves, strict=True):
            copy_rows(new, at, mine, ids)
        self.written[ids] = True
        self.stale[ids] = True


def copy_rows(source: Any, take: np.ndarray, target: np.ndarray, put: np.ndarray) -> None:
    """`target[put] = source[take]` along the leading axis, with no copy in between."""
    if source[:1].nbytes <= _SMALL_ROW:
        target[put] = source[take]
        return
    for i, j in zip(take.tolist(), put.tolist(), strict=True):
        target[j] = source[i]
