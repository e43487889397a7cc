"""Which models a run's folder holds, and the task and data that they belong to."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Model
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.experiment import checkpoint, config, files, model_io
from fedjax_sim.experiment.build import build
from fedjax_sim.experiment.prepare import Prepared, prepare
from fedjax_sim.experiment.settings import PROBE

FINAL = "final"


class Stop(NamedTuple):
    """A model that the folder holds.

    Attributes:
      name: `round 40`, or `final`.
      round: rounds done, or None where it is not said.
      path: its folder.
    """

    name: str
    round: int | None
    path: Path


@dataclasses.dataclass(frozen=True)
class Ground:
    """Task and data of a run, and how its models are read.

    Attributes:
      task: in the precision that the landscape is measured in.
      federation: the data.
      read: `(Stop) -> Model`, NumPy leaves in that precision.
    """

    task: Task
    federation: Federation
    read: Callable[[Stop], Model]


def wide(float64: bool) -> AbstractContextManager[Any]:
    """float64 for a while, or what is there."""
    return jax.enable_x64(True) if float64 else contextlib.nullcontext()


def stops(folder: Path) -> list[Stop]:
    """All models of a run's folder, oldest first; the final one last.

    A final model whose round has a checkpoint stands for both.

    Raises:
      InputError: no folder, no run in it, or no model.
    """
    if not folder.is_dir():
        raise InputError("folder", str(folder), "there is no such folder; give that of a run")
    if not (folder / files.CONFIG).is_file():
        raise InputError("folder", str(folder), f"holds no run: there is no {files.CONFIG}")
    found = [
        Stop(f"round {n}", n, path)
        for path in checkpoint.complete(folder / files.CHECKPOINTS)
        for n in [int(path.name.removeprefix("round_"))]
    ]
    if (folder / files.FINAL / model_io.TREE).is_file():
        last = _final_round(folder)
        found = [stop for stop in found if stop.round != last]
        found.append(Stop(FINAL, last, folder / files.FINAL))
    if not found:
        remedy = f"holds no model yet: neither {files.FINAL}/ nor a checkpoint"
        raise InputError("folder", str(folder), remedy)
    return found


def _final_round(folder: Path) -> int | None:
    """Rounds done in the final model, where the summary says so."""
    summary = files.read_json(folder / files.SUMMARY)
    return None if summary is None else summary.get("good_rounds", summary.get("rounds"))


def chosen(folder: Path, *, round_: int | None, every: bool) -> list[Stop]:
    """The models asked for: all, one round's, or the newest.

    Raises:
      InputError: a round that the folder has no model of.
    """
    at_hand = stops(folder)
    if every:
        return at_hand
    if round_ is None:
        return at_hand[-1:]
    found = [stop for stop in at_hand if stop.round == round_]
    if not found:
        there = ", ".join(str(stop.round) for stop in at_hand if stop.round is not None)
        remedy = f"has no model in this folder; these rounds have: {there or 'none'}"
        raise InputError("round", round_, f"{remedy} (run.keep_checkpoints keeps more)")
    return found


def ground_of(folder: Path, *, float64: bool, task: Any, federation: Federation | None) -> Ground:
    """Build task and data from `config.toml`, or take the given ones.

    Args:
      folder: of the run.
      float64: the precision of task and models; the caller is inside `wide(float64)`.
      task: for runs made in Python.
      federation: likewise.

    Raises:
      InputError: a run made in Python without the two; a user's own piece that is gone.
    """
    if (task is None) != (federation is None):
        raise InputError("task", task, "task and federation are given together or not at all")
    number = jnp.float64 if float64 else jnp.float32
    if federation is not None:
        shape, kind = federation.train.x.shape[1:], federation.train.x.dtype
        bound = task.bind(shape, kind) if hasattr(task, "bind") else task
        return Ground(bound, federation, lambda stop: _cast(_final(stop, bound), number))
    experiment = config.resolve(config.read(folder / files.CONFIG))
    plan = experiment.plan.model_copy(update={"float64": float64})
    built = build(dataclasses.replace(experiment, plan=plan))
    prepared: list[Prepared] = []

    def read(stop: Stop) -> Model:
        if stop.name == FINAL:
            return _cast(_final(stop, built.task), number)
        with _precision(experiment.plan.float64):
            if not prepared:
                own = build(experiment, built.federation)
                plain = {} if own.settings.lanes != PROBE else {"lanes": 1, "devices": 1}
                settings = dataclasses.replace(own.settings, **plain)
                prepared.append(prepare(own.recipe, own.task, own.federation, settings))
            model = _of_checkpoint(prepared[0], stop)
        return _cast(model, number)

    return Ground(built.task, built.federation, read)


def _precision(float64: bool) -> AbstractContextManager[Any]:
    """The run's own precision, whatever the caller is in."""
    return jax.enable_x64(float64)


def _final(stop: Stop, task: Task) -> Model:
    if stop.name != FINAL:
        remedy = "is a checkpoint, and a run made in Python can be probed at its final model only"
        raise InputError("round", stop.round, remedy)
    return model_io.load(stop.path, task=task).model


def _of_checkpoint(prepared: Prepared, stop: Stop) -> Model:
    """The global model in a checkpoint's run state."""
    algorithm = prepared.algorithm
    if algorithm.global_model is None:
        raise InputError("algorithm.name", prepared.name, "shares no model that could be probed")
    shapes = jax.eval_shape(prepared.init_state, prepared.init)
    state = checkpoint.restore(stop.path, shapes)
    return jax.device_get(algorithm.global_model(state.algorithm))


def _cast(model: Model, number: Any) -> Model:
    """Floating leaves in another precision."""

    def cast(leaf: Any) -> Any:
        value = np.asarray(leaf)
        return value.astype(number) if np.issubdtype(value.dtype, np.floating) else value

    return jax.tree.map(cast, model)


def last_round(stop: Stop, data: Shards) -> int:
    """The last round (counted from 0) that a model was trained in; 0 where data never change.

    Raises:
      InputError: data that change with the round, and a model of no known one.
    """
    if data.stages is None:
        return 0
    if stop.round is None:
        remedy = f"is not said in {files.SUMMARY}, and the data change with the round"
        raise InputError("round", None, remedy)
    return max(0, stop.round - 1)


def split_of(federation: Federation, split: str) -> Shards:
    """The examples to measure on: `train`, or `test` (the clients' own, else the central ones).

    Raises:
      InputError: no such examples.
    """
    if split == "train":
        return federation.train
    if federation.test is not None and federation.test.sizes.sum():
        return federation.test
    if federation.central_test is None or not len(federation.central_test[0]):
        raise InputError("split", split, "this federation holds no test examples")
    x, y = federation.central_test
    return Shards(x, y, np.zeros(1, np.int64), np.array([len(x)]))
