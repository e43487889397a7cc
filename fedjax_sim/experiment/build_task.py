"""The model and the task of an experiment, bound to its data."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Task
from fedjax_sim.data.federated import Federation
from fedjax_sim.experiment import pieces
from fedjax_sim.experiment.config import Experiment, Table
from fedjax_sim.experiment.messages import MISSING
from fedjax_sim.experiment.pieces import MODEL, TASK


@contextlib.contextmanager
def within(section: str, values: Mapping[str, Any]) -> Generator[None]:
    """Name the experiment's field in an `InputError` about one of `values`, or its file."""
    try:
        yield
    except InputError as error:
        leaf = error.field.split(".")[-1]
        if leaf in values:
            raise InputError(f"{section}.{leaf}", error.value, error.remedy) from error
        for name, value in values.items():
            if isinstance(value, str) and value == error.field:
                remedy = f"{error.remedy} ({error.value})"
                raise InputError(f"{section}.{name}", value, remedy) from error
        raise


def model_table(experiment: Experiment, task: Table) -> Table:
    """[model] with the task's alphabet put in where the model reads characters."""
    piece, values = experiment.pieces[MODEL], experiment.params(MODEL)
    if "vocab" in piece.fields and not piece.is_own:
        values.setdefault("vocab", task.get("vocab") or task.get("classes"))
        if values["vocab"] is None:
            raise InputError("model.vocab", MISSING, f"is needed by {piece.name}")
    return values


def make_model(experiment: Experiment, values: Table) -> Any:
    """The model of these parameters, or a factory that waits for `rngs`."""
    piece = experiment.pieces[MODEL]
    if piece.takes("rngs"):
        return functools.partial(piece.make(), **values)
    with within(MODEL, values):
        return piece.make()(**values)


def task_table(experiment: Experiment, data: Federation) -> Table:
    """[task] with what the data know put in: its name, the number of classes."""
    given = experiment.params(TASK)
    given.pop("metrics", None)
    name = experiment.pieces[TASK].name if TASK in experiment.pieces else _task_by_data(data)
    fields = pieces.find(TASK, name).fields
    known: Table = {"classes": data.n_classes, "vocab": data.n_classes, "outputs": _outputs(data)}
    for key in known.keys() & fields.keys():
        given.setdefault(key, known[key])
        if given[key] is None:
            raise InputError(f"task.{key}", MISSING, "is needed: the data do not say how many")
        if data.n_classes is not None and key != "outputs" and given[key] < data.n_classes:
            remedy = f"must be at least {data.n_classes}: the data have that many"
            raise InputError(f"task.{key}", given[key], remedy)
    for key in given.keys() - fields.keys():
        remedy = f"is not taken by {name}, the task that suits these data"
        raise InputError(f"task.{key}", given[key], remedy)
    defaults = {n: d for n, (_, d) in fields.items() if d is not ...}
    whole = defaults | given
    return {"name": name} | {n: whole[n] for n in fields if whole.get(n) is not None}


def _task_by_data(data: Federation) -> str:
    if data.train.y.dtype.kind not in "iu":
        return "regression"
    return "classification" if data.train.y.ndim == 1 else "next_char"


def _outputs(data: Federation) -> int:
    return 1 if data.train.y.ndim == 1 else int(data.train.y.shape[-1])


def make_task(experiment: Experiment, table: Table, model: Any, x_shape: Any, x_dtype: Any) -> Task:
    """The task for inputs `[B, *x_shape]`, with the user's own metrics.

    Args:
      experiment: for its metrics and precision.
      table: what `task_table` gave.
      model: what `make_model` gave.
      x_shape: shape of one input.
      x_dtype: dtype of the inputs.
    """
    piece = pieces.find(TASK, table["name"])
    values = {k: v for k, v in table.items() if k != "name"}
    more: Table = {}
    build = piece.make()
    if experiment.plan.float64 and not piece.is_own:
        import jax.numpy as jnp

        from fedjax_sim import tasks

        more["dtype"] = jnp.float64
        by_name = {"classification": tasks.classifier, "regression": tasks.regressor}
        build = by_name.get(table["name"], tasks.next_char)
    first = (model,) if piece.takes("model") else ()
    with within(TASK, values):
        made: Any = build(*first, **values, **more)
    with _model_named(experiment, x_shape):
        task = made.bind(x_shape, _dtype(x_dtype, experiment)) if hasattr(made, "bind") else made
    if not isinstance(task, Task):
        remedy = f"must return a Task, and returned a {type(task).__name__}"
        raise InputError("task.name", table["name"], remedy)
    return _with_metrics(task, _metrics(experiment))


@contextlib.contextmanager
def _model_named(experiment: Experiment, x_shape: Any) -> Generator[None]:
    """Say which model does not take the data's inputs."""
    try:
        yield
    except InputError as error:
        remedy = error.remedy
        if error.field != "model":
            remedy = f"does not take inputs of shape {tuple(x_shape)}: {error.field} {remedy}"
        raise InputError("model.name", experiment.pieces[MODEL].name, remedy) from error


def _dtype(x_dtype: Any, experiment: Experiment) -> Any:
    floating = np.issubdtype(x_dtype, np.floating)
    return None if floating and experiment.plan.float64 else x_dtype


def _metrics(experiment: Experiment) -> list[Callable[..., Any]]:
    named = experiment.table.get("task", {}).get("metrics", [])
    return [pieces.load_own("task.metrics", name) for name in named]


def _with_metrics(task: Task, own: list[Callable[..., Any]]) -> Task:
    """The task with the user's own metrics after its own."""
    if not own:
        return task

    def metrics(outputs: Any, batch: Any) -> dict[str, Any]:
        found = dict(task.metrics(outputs, batch))
        for function in own:
            found |= function(outputs, batch)
        return found

    return task._replace(metrics=metrics)
