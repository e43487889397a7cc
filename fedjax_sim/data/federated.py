"""Federated data: all examples of all clients in flat arrays, clients as offsets and sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedjax_sim.core.checks import InputError


@dataclasses.dataclass(frozen=True)
class Shards:
    """Flat examples in client order (NumPy on the host).

    Attributes:
      x: inputs `[E, ...]`; client i owns rows `offsets[i] : offsets[i] + sizes[i]`.
      y: targets `[E, ...]`.
      offsets: int64 `[N]`.
      sizes: int64 `[N]`.
      stages: int64 `[T, N]`, offsets in each of T stages where clients' data change with time,
        the first row being `offsets`; stage t owns rows `t E / T : (t + 1) E / T`. Or None.
      stage_rounds: int64 `[T]`, the round (from 0) with which each stage begins; or None.
    """

    x: np.ndarray
    y: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    stages: np.ndarray | None = None
    stage_rounds: np.ndarray | None = None

    @property
    def n_clients(self) -> int:
        """N."""
        return len(self.sizes)

    def client(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Client `index`'s `(x, y)` as views."""
        window = slice(self.offsets[index], self.offsets[index] + self.sizes[index])
        return self.x[window], self.y[window]

    def stage(self, round_index: int) -> int:
        """The stage of a round (counted from 0); 0 where the data never change."""
        if self.stage_rounds is None:
            return 0
        return max(0, int(np.searchsorted(self.stage_rounds, round_index, side="right")) - 1)

    def at(self, round_index: int) -> Shards:
        """The examples of a round alone, as views; itself where the data never change."""
        if self.stages is None:
            return self
        stage, total = self.stage(round_index), len(self.x) // len(self.stages)
        rows = slice(stage * total, (stage + 1) * total)
        return Shards(self.x[rows], self.y[rows], self.stages[stage] - rows.start, self.sizes)

    def in_order(self) -> tuple[np.ndarray, np.ndarray]:
        """`(x, y)` client by client, of the first stage, without rows that are no client's."""
        begin = np.cumsum(self.sizes) - self.sizes
        if len(self.x) == self.sizes.sum() and np.array_equal(begin, self.offsets):
            return self.x, self.y
        slot = np.arange(self.sizes.sum()) - np.repeat(begin, self.sizes)
        rows = np.repeat(self.offsets, self.sizes) + slot
        return self.x[rows], self.y[rows]


@dataclasses.dataclass(frozen=True)
class Federation:
    """A population of clients with its data.

    Attributes:
      train: what clients train on.
      test: what clients are evaluated on, or None.
      validation: what clients may tune on, or None.
      central_test: `(x [T, ...], y [T, ...])` held by nobody, or None.
      n_classes: number of classes, or None when targets are not classes.
      name: for reports and pictures.
      meta: ground truth and facts about the making (planted groups, optimum, alpha, ...).
    """

    train: Shards
    test: Shards | None = None
    validation: Shards | None = None
    central_test: tuple[np.ndarray, np.ndarray] | None = None
    n_classes: int | None = None
    name: str = "federation"
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def n_clients(self) -> int:
        """N."""
        return self.train.n_clients


def shards_from_index(x: np.ndarray, y: np.ndarray, parts: Sequence[np.ndarray]) -> Shards:
    """Reorder `(x, y)` so that each client's examples lie together.

    Args:
      x: inputs `[E, ...]`.
      y: targets `[E, ...]`.
      parts: for each client the int rows that it owns; an example may be owned by several.

    Returns:
      `Shards` with N = len(parts).
    """
    sizes = np.array([len(p) for p in parts], np.int64)
    order = np.concatenate([np.asarray(p, np.int64) for p in parts]) if len(parts) else []
    return shards_from_order(x, y, np.asarray(order, np.int64), sizes)


def shards_from_order(x: np.ndarray, y: np.ndarray, order: np.ndarray, sizes: np.ndarray) -> Shards:
    """As `shards_from_index`, from one flat row order `[E']` and sizes `[N]` summing to E'."""
    sizes = np.asarray(sizes, np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    shards = Shards(np.asarray(x)[order], np.asarray(y)[order], offsets, sizes)
    check_shards("data", shards)
    return shards


def check_shards(field: str, shards: Shards, *, allow_empty: bool = False) -> None:
    """Refuse data that would train on nonsense: empty clients, NaN, lengths that differ."""
    if shards.n_clients == 0:
        raise InputError(f"{field}.clients", 0, "must be at least 1")
    if len(shards.x) != len(shards.y):
        raise InputError(
            f"{field}.y", len(shards.y), f"must have as many rows as x: {len(shards.x)}"
        )
    if not allow_empty and (shards.sizes < 1).any():
        first = int(np.argmin(shards.sizes))
        remedy = f"every client needs at least 1 example; client {first} is the first without"
        raise InputError(f"{field}.sizes", int(shards.sizes[first]), remedy)
    if shards.stages is not None or shards.stage_rounds is not None:
        _check_stages(field, shards)
    for name, values in (("x", shards.x), ("y", shards.y)):
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            remedy = f"must be finite; row {row} is the first that is not"
            raise InputError(f"{field}.{name}", "NaN or infinity", remedy)


def _check_stages(field: str, shards: Shards) -> None:
    """Refuse stages that are not equal blocks, one after the other."""
    stages, rounds = shards.stages, shards.stage_rounds
    if stages is None or rounds is None:
        raise InputError(f"{field}.stages", None, "stages and stage_rounds are given together")
    if stages.shape != (len(rounds), shards.n_clients) or len(shards.x) % max(len(rounds), 1):
        remedy = f"must be [T, {shards.n_clients}] for T rounds, and T divide the rows of x"
        raise InputError(f"{field}.stages", stages.shape, remedy)
    if rounds[0] != 0 or (np.diff(rounds) < 1).any():
        raise InputError(f"{field}.stage_rounds", rounds, "must rise, from 0 on")
    block = len(shards.x) // len(rounds) * np.arange(len(rounds))[:, None]
    if (stages != shards.offsets + block).any():
        remedy = "row t must be the offsets in block t of the rows"
        raise InputError(f"{field}.stages", stages, remedy)


def check_labels(field: str, y: np.ndarray, n_classes: int) -> None:
    """Refuse labels outside `0 .. n_classes-1`."""
    if len(y) and (y.min() < 0 or y.max() >= n_classes):
        bad = int(y.min() if y.min() < 0 else y.max())
        raise InputError(field, bad, f"labels must lie in 0 .. {n_classes - 1}")
