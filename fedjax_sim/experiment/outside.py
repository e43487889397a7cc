"""Dispatches of a run whose client rows lie off the device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedjax_sim.core import tree
from fedjax_sim.core.types import PyTree
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine.simulate import RunState
from fedjax_sim.engine.store import Pool
from fedjax_sim.experiment.apart import Apart
from fedjax_sim.experiment.client_rows import ClientRows, KeptRows
from fedjax_sim.experiment.prepare import Prepared
from fedjax_sim.experiment.rows_file import RowIndex, index_shapes
from fedjax_sim.experiment.settings import DISK

_POOLS = 4  # on the host: one that is filled, one that waits to be written, two in passing

Buffers = dict[str, np.ndarray]


class Outside:
    """What `Dispatch` does with rows that lie elsewhere; a state between dispatches has none.

    Attributes:
      pool_shapes: of the rows that the program gets.
      kept_shapes: of what a checkpoint holds in their place.
      host_bytes: held on the host at most.
    """

    def __init__(self, prepared: Prepared, rows_at: Path | None) -> None:
        """Shapes only.

        Args:
          prepared: the run.
          rows_at: the file for rows; None for no run folder.
        """
        n, row = prepared.federation.n_clients, prepared.row
        self._prepared, self._rows = prepared, ClientRows(prepared, row, rows_at)
        u = self._rows.capacity
        ids: Any = jax.ShapeDtypeStruct((u,), np.int32)
        self.pool_shapes = Pool(ids, with_axis(row, u))
        self.kept_shapes = index_shapes(n)
        self._apart = None if prepared.apart is None else Apart(prepared, self._rows)
        each, settings = tree.n_bytes(row), prepared.settings
        written = min(n, settings.rounds * prepared.sampler.size)
        self.host_bytes = each * (_POOLS * u + (0 if settings.client_state == DISK else written))

    def run(
        self,
        launch: Callable[[RunState, int], tuple[RunState, dict[str, Any]]],
        state: RunState,
        rounds: int,
        train: DeviceShards,
    ) -> tuple[RunState, Buffers]:
        """One dispatch: its rows are put in, the next one's are fetched, its own taken out.

        Args:
          launch: starts the program with a state that has a pool.
          state: consumed.
          rounds: of the dispatch.
          train: the placed training data.

        Raises:
          RuntimeError: the program drew another cohort than was foretold.
        """
        begin = int(state.round)
        done, p = begin + rounds, self._prepared
        upcoming = p.stop_after(done) - done if done < p.settings.rounds else 0
        pool = self._rows.begin(state.sampler, begin, rounds, upcoming)
        after, found = launch(state._replace(rows=pool), rounds)
        self._rows.meanwhile()
        records: Buffers = jax.device_get(found)
        if records.pop("rows_missing")[:rounds].any():
            remedy = 'run it with client_state = "device"'
            raise RuntimeError(f"cohorts came out otherwise than they were foretold; {remedy}")
        sound = bool(records["sound"][:rounds].all())
        self._rows.end(after.rows, sound=sound)
        after = after._replace(rows=())
        return after, self._evaluated(after, records, rounds, train, due=sound)

    def _evaluated(
        self, state: RunState, records: Buffers, rounds: int, train: DeviceShards, *, due: bool
    ) -> Buffers:
        """The records, with clients' own models measured after the dispatch's last round."""
        if self._apart is None:
            return records
        due = due and self._apart.due(int(state.round))
        flags = np.zeros(len(records["sound"]), bool)
        flags[rounds - 1] = due
        records = {"probed": flags} | records
        for name, value in self._apart(state, train).items() if due else ():
            records[name] = np.zeros(flags.shape, value.dtype)
            records[name][rounds - 1] = value
        return records

    def adopt(self, state: RunState) -> RunState:
        """A state that the run goes on from; the rows of a checkpoint are taken up."""
        self._rows.forget()
        if isinstance(state.rows, RowIndex):
            self._rows.restore(state.rows, int(state.round))
        return state._replace(rows=())

    def kept(self, state: RunState, done: int) -> RunState:
        """What a checkpoint after round `done` holds."""
        return state._replace(rows=self._rows.keep(done))

    def handed(self, state: RunState) -> RunState:
        """The state with a way to its rows."""
        wide = self._prepared.settings.float64

        def take(ids: np.ndarray) -> PyTree:
            with jax.enable_x64(True) if wide else contextlib.nullcontext():
                return self._rows.take(ids)

        return state._replace(rows=KeptRows(self._prepared.federation.n_clients, take))


def with_axis(row: PyTree, n: int) -> PyTree:
    """Shapes of rows `[n, ...]`, from those of one."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), row)
