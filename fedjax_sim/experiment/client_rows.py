"""Client rows outside the device: a dispatch gets those of its cohorts.

The next dispatch's are fetched while it computes.
Around each dispatch: `begin` hands out the pool, `meanwhile` is called once the program runs,
and `end` takes the pool back. What `begin` fetched ahead is used if the dispatch is the one
that was expected; a client of two dispatches in a row gets its row from the first one's pool.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.types import Array, PyTree
from fedjax_sim.engine.ahead import NONE, foretells, make_ahead
from fedjax_sim.engine.mesh import place
from fedjax_sim.engine.store import NOBODY, Pool
from fedjax_sim.engine.store_host import HostRows, Rows, copy_rows
from fedjax_sim.experiment.prepare import Prepared
from fedjax_sim.experiment.rows_file import RowFile, RowIndex
from fedjax_sim.experiment.settings import DISK


class _Fetch(NamedTuple):
    """The rows of one dispatch, on their way.

    Attributes:
      begin: rounds done before it.
      rounds: of it.
      sampler: the sampler's state after its draws.
      ids: int32 `[n]`, whose rows it needs, ascending.
      new: those that nobody ever wrote, or None.
      leaves: `[U, ...]`, filled by `_fill`.
    """

    begin: int
    rounds: int
    sampler: PyTree
    ids: np.ndarray
    new: PyTree | None
    leaves: list[np.ndarray]


class ClientRows:
    """The rows of one run, in host memory or on disk.

    Attributes:
      row: shapes of one client's leaves.
      capacity: U, clients of a dispatch at most.
    """

    def __init__(self, prepared: Prepared, row: PyTree, path: Path | None) -> None:
        """Take note; the rows themselves come as they are needed.

        Args:
          prepared: the run.
          row: shapes of one client's leaves.
          path: of the file that checkpoints need and `disk` uses; None for no run folder.
        """
        n, keep = prepared.federation.n_clients, prepared.settings.keep_checkpoints
        self.row, self.capacity = row, min(n, prepared.chunk * prepared.sampler.size)
        self._prepared, self._shapes = prepared, jax.tree.leaves(row)
        self._file = RowFile(row, n, path, keep)
        self._host = None if prepared.settings.client_state == DISK else HostRows(row, n)
        self._rows: Rows = self._host or self._file
        self._has = np.zeros(n, bool)  # clients whose row differs from a new one, or may
        self._ahead = jax.jit(make_ahead(prepared.sampler, prepared.chunk))
        self._foretells = foretells(prepared.sampler, prepared.key, n)
        self._fresh, self._origin = jax.jit(prepared.fresh_rows), None
        self._next: _Fetch | None = None
        self._now: _Fetch | None = None
        self._done: tuple[np.ndarray, list[np.ndarray]] | None = None  # not yet written

    def begin(self, sampler: PyTree, begin: int, rounds: int, upcoming: int) -> Pool:
        """The pool of a dispatch, on the devices.

        Args:
          sampler: the sampler's state before it.
          begin: rounds done.
          rounds: of the dispatch.
          upcoming: rounds of the dispatch expected after it, 0 for none.
        """
        found, self._next = self._next, None
        if found is None or (found.begin, found.rounds) != (begin, rounds):
            self._flush()
            found = self._fill(self._fetch(sampler, begin, rounds, ()))
        self._now = found
        if upcoming and self._foretells:
            self._next = self._fetch(found.sampler, begin + rounds, upcoming, found.ids)
        ids: Any = np.full(self.capacity, NOBODY, np.int32)
        ids[: len(found.ids)] = found.ids
        pool = Pool(ids, jax.tree.unflatten(jax.tree.structure(self.row), found.leaves))
        return place(pool, self._prepared.mesh)

    def meanwhile(self) -> None:
        """While the program runs: write the last dispatch's rows, read the next one's."""
        self._flush()
        if self._next is not None:
            self._next = self._fill(self._next)

    def end(self, pool: Pool, *, sound: bool) -> None:
        """Take a dispatch's rows back; where it was not sound nothing is kept ahead of it."""
        assert self._now is not None
        ids, leaves = self._now.ids, [_one_copy(v) for v in jax.tree.leaves(pool.rows)]
        self._has[ids], self._now = True, None
        if self._next is not None:
            both, mine, theirs = np.intersect1d(ids, self._next.ids, return_indices=True)
            for old, new in zip(leaves, self._next.leaves, strict=True):
                copy_rows(old, mine, new, theirs)
            del both
        self._done = (ids, leaves)
        if not sound:
            self.forget()

    def forget(self) -> None:
        """Drop what was fetched ahead: the run goes on from another state."""
        self._next = None

    def take(self, ids: np.ndarray) -> PyTree:
        """Rows `[n, ...]` of clients `ids` `[n]`, distinct, as NumPy arrays."""
        self._flush()
        out = [np.empty((len(ids), *s.shape), s.dtype) for s in self._shapes]
        places = np.arange(len(ids))
        known = self._has[ids]
        self._rows.read(ids[known], out, places[known])
        missing = places[~known]
        for start in range(0, len(missing), self.capacity):
            at = missing[start : start + self.capacity]
            for leaf, value in zip(out, self._new_rows(ids[at]), strict=True):
                leaf[at] = value[: len(at)]
        return jax.tree.unflatten(jax.tree.structure(self.row), out)

    def keep(self, round_index: int) -> RowIndex:
        """Make the rows durable for a checkpoint of this round; what it is to hold of them."""
        self._flush()
        if self._host is not None:
            ids = np.flatnonzero(self._host.stale)
            self._file.write(ids, self._host.leaves, ids)
            self._host.stale[:] = False
        return self._file.keep(round_index)

    def restore(self, index: RowIndex, round_index: int) -> None:
        """Take up the rows of a checkpoint."""
        self.forget()
        self._done = None
        self._file.restore(index, round_index)
        self._has = self._file.written.copy()
        if self._host is not None:
            ids = np.flatnonzero(self._has)
            self._file.read(ids, self._host.leaves, ids)
            self._host.written[ids] = True

    def _fetch(self, sampler: PyTree, begin: int, rounds: int, held: Any) -> _Fetch:
        """Who is needed, and the rows of those who have none yet begun to be made.

        `held` are the clients of the dispatch before it, whose rows come from there.
        """
        numbers = (jnp.int32(begin), jnp.int32(rounds))
        sampler, drawn = self._ahead(self._prepared.key, sampler, *numbers)
        ids = np.unique(np.asarray(drawn))
        ids = ids[ids != NONE]
        missing = ids[~self._has[ids] & ~np.isin(ids, held)]
        new = self._begin_new(missing) if len(missing) else None
        return _Fetch(begin, rounds, sampler, ids, new, [])

    def _fill(self, fetch: _Fetch) -> _Fetch:
        """The fetch with its rows read, but for those of the dispatch under way."""
        # New arrays each time: where their address suits it, JAX takes them as the device's own.
        leaves = [np.empty((self.capacity, *s.shape), s.dtype) for s in self._shapes]
        ids, held = fetch.ids, () if self._now is None else self._now.ids
        known, free = self._has[ids], ~np.isin(ids, held)
        at = np.flatnonzero(known & free)
        self._rows.read(ids[at], leaves, at)
        if fetch.new is not None:
            at = np.flatnonzero(~known & free)
            for leaf, value in zip(leaves, jax.tree.leaves(fetch.new), strict=True):
                copy_rows(np.asarray(value), np.arange(len(at)), leaf, at)
        return fetch._replace(leaves=leaves, new=None)

    def _flush(self) -> None:
        if self._done is not None:
            ids, leaves = self._done
            self._rows.write(ids, leaves, np.arange(len(ids)))
            self._done = None

    def _begin_new(self, ids: np.ndarray) -> PyTree:
        """Rows as they are before the first round, `[U, ...]`; the rest is the last one's again."""
        if self._origin is None:
            self._origin = jax.jit(self._prepared.origin)(self._prepared.init)
        filled = np.resize(ids, self.capacity).astype(np.int32)
        return self._fresh(*self._origin, filled)

    def _new_rows(self, ids: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(v) for v in jax.tree.leaves(self._begin_new(ids))]


@dataclasses.dataclass(frozen=True, repr=False)
class KeptRows:
    """The client rows of a run, where it kept them outside the device.

    Attributes:
      n_clients: N.
    """

    n_clients: int
    _take: Callable[[np.ndarray], PyTree]

    def take(self, ids: Any) -> PyTree:
        """Rows `[n, ...]` of clients `ids` `[n]`, which are distinct."""
        return self._take(np.asarray(ids, np.int64))

    def whole(self) -> PyTree:
        """All rows `[N, ...]`; they must fit into memory."""
        return self.take(np.arange(self.n_clients))


def _one_copy(leaf: Array) -> np.ndarray:
    """A leaf that every device holds, as one NumPy array."""
    return np.asarray(leaf.addressable_data(0))
