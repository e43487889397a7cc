"""A run that takes a second: six clients that pull a quadratic towards their own targets."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from fedjax_sim.algorithms import scaffold
from fedjax_sim.data.federated import Federation, shards_from_index
from fedjax_sim.experiment.run_result import Run
from fedjax_sim.experiment.session import Session
from fedjax_sim.experiment.settings import Diagnosis, Settings
from fedjax_sim.tasks.quadratic import quadratic

DIM = 3


def federation(
    *, seed: int = 0, client_test: bool = False, dtype: str = "float32", clients: int = 6
) -> Federation:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 6, clients)
    total = int(sizes.sum())
    x = np.abs(draw.normal(size=(total, DIM))).astype(dtype) + 0.5
    y = draw.normal(size=(total, DIM)).astype(dtype)
    parts = np.split(np.arange(total), np.cumsum(sizes)[:-1])
    train = shards_from_index(x, y, parts)
    return Federation(train, train if client_test else None, central_test=(x, y), name="little")


def settings(**changes: Any) -> Settings:
    base = {"rounds": 13, "cohort": 3, "chunk": 2, "checkpoint_every": 4, "eval_every": 3}
    base |= {"diagnosis": Diagnosis(drift_every=0)}  # the panel takes long to compile
    return Settings(**(base | {"lanes": 1, "devices": 1, "stragglers": 0.3} | changes))


def recipe() -> Any:
    return scaffold(optax.sgd(0.05), batch_size=2)


def session(out: Path | None = None, *, resume: bool = False, **changes: Any) -> Session:
    given = {"recipe": recipe(), "task": quadratic(DIM), "federation": federation()}
    for name in (*given, "init", "config_text", "hyper", "groups"):
        if name in changes:
            given[name] = changes.pop(name)
    return Session(**given, settings=settings(**changes), out=out, resume=resume)


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{n: v for n, v in r.items() if n != "wall_time_s"} for r in records]


def assert_same(a: Run, b: Run) -> None:
    """Bitwise: state with rows and optimizers, model, records but their times."""
    assert jax.tree.structure(a.state) == jax.tree.structure(b.state)
    for x, y in zip(jax.tree.leaves(a.state), jax.tree.leaves(b.state), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
    assert without_times(a.records) == without_times(b.records)
    assert a.summary["client_steps"] == b.summary["client_steps"]


def slow_run(out: str, rounds: int, pause: float, clients: int = 6, **changes: Any) -> None:
    """What the kill tests run in a process of its own; goes on where there is a run."""
    folder = Path(out)
    held = (folder / "config.toml").exists()
    given = {"federation": federation(clients=clients), "rounds": rounds} | changes
    session(folder, resume=held, **given).run(lambda _: time.sleep(pause))
