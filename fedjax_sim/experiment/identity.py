"""Which experiment a checkpoint belongs to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import jax
import numpy as np

from fedjax_sim.core.types import PyTree
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.experiment.prepare import Prepared

_OF_THE_PLAN = ("lanes", "devices", "chunk", "client_state")


def identity(prepared: Prepared, state: PyTree, config: str) -> str:
    """SHA-256 of what must be the same for a checkpoint to go on.

    Args:
      prepared: algorithm's name and numbers, settings and data.
      state: shapes of the run's state.
      config: text of `config.toml`.

    Cost: reads all data once, about a second per gigabyte.
    """
    settings = dataclasses.asdict(prepared.settings)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    facts: dict[str, Any] = {
        "config": hashlib.sha256(config.encode()).hexdigest(),
        "algorithm": prepared.name,
        "hyper": {n: float(v) for n, v in sorted(prepared.hyper.items())},
        "settings": {n: v for n, v in settings.items() if n not in _OF_THE_PLAN},
        "state": [[jax.tree_util.keystr(p), str(v.dtype), list(v.shape)] for p, v in leaves],
        "init": _digest(jax.tree.leaves(prepared.init)),
        "data": _data(prepared.federation),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _data(federation: Federation) -> dict[str, str]:
    def of(shards: Shards | None) -> list[Any]:
        if shards is None:
            return []
        stages = [v for v in (shards.stages, shards.stage_rounds) if v is not None]
        return [shards.x, shards.y, shards.offsets, shards.sizes, *stages]

    parts = {
        "train": of(federation.train),
        "test": of(federation.test),
        "central": list(federation.central_test or ()),
    }
    return {name: _digest(arrays) for name, arrays in parts.items()}


def _digest(arrays: list[Any]) -> str:
    total = hashlib.sha256()
    for array in arrays:
        value = np.ascontiguousarray(array)
        total.update(f"{value.dtype}{value.shape}".encode())
        total.update(value.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
