"""Evaluation of clients' own models where their rows lie off the device: some clients at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.types import Array, Member, PyTree
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine.mesh import place
from fedjax_sim.engine.simulate import RunState
from fedjax_sim.experiment.client_rows import ClientRows
from fedjax_sim.experiment.evaluation import forms
from fedjax_sim.experiment.prepare import Prepared
from fedjax_sim.experiment.probe import evaluate_forms, spreads


class Apart:
    """`values = apart(state, train)`: what the probe would measure of clients' own models."""

    def __init__(self, prepared: Prepared, rows: ClientRows) -> None:
        """Compile nothing.

        Args:
          prepared: a run that has `apart`.
          rows: the clients' rows.
        """
        assert prepared.apart is not None
        self._prepared, self._rows = prepared, rows
        self._host, self._placed = prepared.apart, None
        self._sums = jax.jit(self._sums_of)
        self._spreads = jax.jit(lambda sums: spreads(sums, prepared.groups, prepared.unseen))

    def due(self, done: int) -> bool:
        """Whether round `done` (from 1) is one after which models are evaluated."""
        settings = self._prepared.settings
        return done % settings.eval_every == 0 or done == settings.rounds

    def __call__(self, state: RunState, train: DeviceShards) -> dict[str, np.ndarray]:
        """Evaluate all clients; `train` are the placed training data.

        Cost: every row is read once; U rows on the devices at a time.
        """
        if self._placed is None:
            self._placed = place(self._host, self._prepared.mesh)
        n, width = self._prepared.federation.n_clients, self._rows.capacity
        whole: dict[str, np.ndarray] = {}
        for start in range(0, n, width):
            ids = np.minimum(np.arange(start, start + width), n - 1)
            real = min(width, n - start)
            rows = self._rows.take(ids[:real])
            rows = jax.tree.map(lambda v: np.resize(v, (width, *v.shape[1:])), rows)
            given = place((rows, ids.astype(np.int32), np.arange(width) < real), self._mesh)
            found = jax.device_get(
                self._sums(state.algorithm, state.round, *given, self._placed, train)
            )
            for name, value in found.items():
                held = whole.setdefault(name, np.zeros((n, *value.shape[1:]), value.dtype))
                held[start : start + real] = value[:real]
        return jax.device_get(self._spreads(whole))

    @property
    def _mesh(self) -> jax.sharding.Mesh:
        return self._prepared.mesh

    def _sums_of(
        self,
        algorithm: PyTree,
        round_index: Array,
        rows: PyTree,
        ids: Array,
        present: Array,
        own: DeviceShards,
        train: DeviceShards,
    ) -> dict[str, Array]:
        p, done = self._prepared, jnp.maximum(round_index - 1, 0)
        return evaluate_forms(
            forms(p.algorithm, p.task, p.settings.evaluation),
            p.task,
            algorithm,
            rows,
            own.at(done),
            train.at(done),
            p.plan,
            p.mesh,
            min(p.settings.eval_batch_size, own.longest),
            p.key,
            done,
            Member(ids, present, jnp.zeros_like(ids), jnp.ones(ids.shape)),
        )
