"""Client rows in a file: written without harm to what a checkpoint still needs.

The file is cut into slots of one row. A row is written over its old slot only if no kept
checkpoint has it there, and into a free slot otherwise; a checkpoint keeps where each row lies
and its CRC-32, 8 bytes a client, and never a copy of the rows. After a kill the rows are those
of the checkpoint, for what was written since lies elsewhere.
"""

from __future__ import annotations

import math
import os
import tempfile
import weakref
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import PyTree
from fedjax_sim.engine.store_host import Leaves

_ALIGN = 64
_NOWHERE = -1


class RowIndex(NamedTuple):
    """Where the rows lie, as a checkpoint keeps it.

    Attributes:
      slot: int32 `[N]`, -1 for a row never written.
      crc: uint32 `[N]`, of its bytes.
    """

    slot: Any
    crc: Any


def index_shapes(n_clients: int) -> RowIndex:
    """Shapes of an index of N clients."""
    shape = jax.ShapeDtypeStruct((n_clients,), np.int32)
    return RowIndex(shape, jax.ShapeDtypeStruct((n_clients,), np.uint32))


class RowFile:
    """Rows in a file, read and written by their own bytes, never mapped into memory.

    Attributes:
      written: bool `[N]`, see `engine.store_host.Rows`.
      row_bytes: of one client.
    """

    def __init__(self, row: PyTree, n_clients: int, path: Path | None, keep: int = 1) -> None:
        """Rows like `row` for N clients, none written; the file is opened when one is.

        Args:
          row: shapes of one client's leaves.
          n_clients: N.
          path: of the file; None takes one without a name that goes with this object.
          keep: how many checkpoints are kept.
        """
        leaves = jax.tree.leaves(row)
        self.row_bytes = sum(x.size * x.dtype.itemsize for x in leaves)
        self._stride = -(-max(self.row_bytes, 1) // _ALIGN) * _ALIGN
        self._path, self._keep, self._opened = path, keep, _NOWHERE
        self._slot = np.full(n_clients, _NOWHERE, np.int32)
        self._crc = np.zeros(n_clients, np.uint32)
        self._kept: list[tuple[int, np.ndarray]] = []  # (round, slots that it needs)
        self._end, self._free = 0, list[int]()
        self._needed = np.zeros(0, bool)  # by slot, of a kept checkpoint

    @property
    def written(self) -> np.ndarray:
        """See `engine.store_host.Rows`."""
        return self._slot != _NOWHERE

    def read(self, ids: np.ndarray, into: Leaves, at: np.ndarray) -> None:
        """See `engine.store_host.Rows`.

        Raises:
          InputError: a row is not what was written.
        """
        views = [_bytes(leaf) for leaf in into]
        for client, place in zip(ids.tolist(), at.tolist(), strict=True):
            parts = [view[place].data for view in views]
            os.preadv(self._handle, parts, int(self._slot[client]) * self._stride)
            if _crc(parts) != self._crc[client]:
                remedy = f"is damaged: the row of client {client} is not what was written"
                raise InputError("client_state", str(self._path), remedy)

    def write(self, ids: np.ndarray, leaves: Leaves, at: np.ndarray) -> None:
        """See `engine.store_host.Rows`."""
        views = [_bytes(leaf) for leaf in leaves]
        for client, place in zip(ids.tolist(), at.tolist(), strict=True):
            parts = [view[place].data for view in views]
            slot = self._slot_for(client)
            _write_whole(self._handle, parts, slot * self._stride, self.row_bytes)
            self._slot[client], self._crc[client] = slot, _crc(parts)

    def keep(self, round_index: int) -> RowIndex:
        """Make all rows durable; the index that a checkpoint of this round keeps.

        What the `keep` newest checkpoints have is not written over from now on.
        """
        if self._opened != _NOWHERE:
            os.fsync(self._opened)
        mine = self._slot[self.written]
        others = [pair for pair in self._kept if pair[0] != round_index]
        self._kept = [*others, (round_index, mine)][-self._keep :]
        self._count_free()
        return RowIndex(self._slot.copy(), self._crc.copy())

    def restore(self, index: RowIndex, round_index: int) -> None:
        """Take up the rows of a checkpoint; what else is in the file is left for now.

        It may be an older checkpoint's, until as many new ones are made as are kept.
        """
        self._slot, self._crc = (np.array(v) for v in index)
        if not (self._slot != _NOWHERE).any():  # nothing was written, so there may be no file
            return
        self._open(fresh=False)
        size, last = os.fstat(self._handle).st_size, int(self._slot.max(initial=_NOWHERE))
        self._end = -(-size // self._stride)
        if last != _NOWHERE and last * self._stride + self.row_bytes > size:
            remedy = "is too short for the rows that the checkpoint knows"
            raise InputError("client_state", str(self._path), remedy)
        everything = np.arange(self._end, dtype=np.int32)
        older = [(_NOWHERE, everything)] * (self._keep - 1)
        self._kept = [*older, (round_index, self._slot[self.written])]
        self._count_free()

    def _slot_for(self, client: int) -> int:
        old = int(self._slot[client])
        if old != _NOWHERE and not (old < len(self._needed) and self._needed[old]):
            return old
        if self._free:
            return self._free.pop()
        self._end += 1
        return self._end - 1

    def _count_free(self) -> None:
        """Slots that neither a kept checkpoint nor a row of now has."""
        self._needed = np.zeros(self._end, bool)
        for _, slots in self._kept:
            self._needed[slots] = True
        used = self._needed.copy()
        used[self._slot[self.written]] = True
        self._free = np.flatnonzero(~used)[::-1].tolist()

    @property
    def _handle(self) -> int:
        if self._opened == _NOWHERE:
            self._open(fresh=True)
        return self._opened

    def _open(self, *, fresh: bool) -> None:
        if self._path is None:
            self._opened, name = tempfile.mkstemp(prefix="fedjax-sim-rows-")
            os.unlink(name)
        else:
            flags = os.O_RDWR | (os.O_CREAT | os.O_TRUNC if fresh else 0)
            try:
                self._opened = os.open(self._path, flags, 0o644)
            except OSError as error:
                raise InputError("client_state", str(self._path), f"{error.strerror}") from error
        weakref.finalize(self, os.close, self._opened)


def _bytes(leaf: np.ndarray) -> np.ndarray:
    """Leaf `[U, ...]` as bytes `[U, B]`."""
    assert leaf.flags.c_contiguous
    return leaf.reshape(len(leaf), math.prod(leaf.shape[1:])).view(np.uint8)


def _crc(parts: list[memoryview]) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return total


def _write_whole(handle: int, parts: list[memoryview], offset: int, n_bytes: int) -> None:
    done = os.pwritev(handle, parts, offset)
    if done != n_bytes:  # a signal, or a full disk, which then says so
        rest = b"".join(parts)
        while done < n_bytes:
            done += os.pwrite(handle, rest[done:], offset + done)
