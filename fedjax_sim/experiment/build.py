"""From a validated experiment to the four things a run needs: recipe, task, data, settings."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Task
from fedjax_sim.data.federated import Federation, check_labels, check_shards
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.experiment import config, optimizers, pieces
from fedjax_sim.experiment.config import Experiment, Table
from fedjax_sim.experiment.messages import MISSING
from fedjax_sim.experiment.pieces import ALGORITHM, DATA, MODEL, PARTITION, TASK
from fedjax_sim.experiment.sections import BATCH_FIELDS
from fedjax_sim.experiment.settings import Settings

_PLAN_FIELDS = ("lanes", "devices", "chunk")


class Built(NamedTuple):
    """What a run needs.

    Attributes:
      recipe: the algorithm, its numbers traced.
      task: bound to the data's shape.
      federation: the data.
      settings: how the run is driven.
      config_text: from the settings as the run resolved them to the text of `config.toml`.
      facts: names for records and pictures.
    """

    recipe: Recipe
    task: Task
    federation: Federation
    settings: Settings
    config_text: Callable[[Settings], str]
    facts: dict[str, Any]


def build(experiment: Experiment) -> Built:
    """Build everything; writes nothing.

    Raises:
      InputError: naming the field of the experiment.
    """
    data = federation(experiment)
    settings = _settings(experiment, data)
    recipe = make_recipe(experiment)
    table = _task_table(experiment, data)
    filled = {"task": table, "model": _model_table(experiment, table)}
    model = _model(experiment, filled["model"])
    task = _task(experiment, table, model, data.train.x.shape[1:], data.train.x.dtype)
    facts = {
        "algorithm": recipe.name,
        "dataset": data.name,
        "model": getattr(model, "name", None) or experiment.pieces[MODEL].name,
    }
    text = functools.partial(_config_text, experiment, filled)
    return Built(recipe, task, data, settings, text, facts)


@contextlib.contextmanager
def within(section: str, values: Mapping[str, Any]) -> Iterator[None]:
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


def federation(experiment: Experiment) -> Federation:
    """The experiment's data.

    Raises:
      InputError: a parameter out of range, missing files, data that would train on nonsense.
    """
    piece = experiment.pieces[DATA]
    values = experiment.params(DATA)
    if PARTITION in experiment.pieces:
        part = experiment.params(PARTITION)
        with within(PARTITION, part):
            values["partition"] = experiment.pieces[PARTITION].build(**part)
    with within(DATA, experiment.params(DATA)), within(PARTITION, experiment.params(PARTITION)):
        made = piece.build(**values)
    if not isinstance(made, Federation):
        remedy = f"must return a Federation, and returned a {type(made).__name__}"
        raise InputError("data.name", piece.name, remedy)
    if piece.is_own:
        _check(made)
    return made


def _check(made: Federation) -> None:
    """Hold data that did not come through our own builders to what these promise."""
    splits = {"train": made.train, "test": made.test, "validation": made.validation}
    for name, shards in splits.items():
        if shards is not None:
            check_shards(f"data.{name}", shards, allow_empty=name != "train")
            if made.n_classes is not None:
                check_labels(f"data.{name}.y", shards.y, made.n_classes)
    if made.central_test is not None:
        x, y = made.central_test
        if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
            raise InputError("data.central_test.x", "NaN or infinity", "must be finite")
        if made.n_classes is not None:
            check_labels("data.central_test.y", y, made.n_classes)


def make_recipe(experiment: Experiment) -> Recipe:
    """The experiment's algorithm; every number of its sections is a traced leaf."""
    piece, client = experiment.pieces[ALGORITHM], experiment.client
    entry = piece.entry
    assert entry is not None
    builder = piece.build or entry.load()
    values = experiment.params(ALGORITHM)
    values |= {name: getattr(client, theirs) for name, theirs in entry.from_client.items()}
    if entry.batches:
        values |= {name: getattr(client, name) for name in BATCH_FIELDS}
        values["batch_size"] = None if client.batch_size == "full" else client.batch_size
    makers = {"client": optimizers.maker("client", client, rounds=experiment.run.rounds)}
    if experiment.server is not None:
        makers["server"] = optimizers.maker("server", experiment.server)
    if piece.is_own and not hasattr(builder, "__signature__"):
        made = {role: maker(**maker.numbers) for role, maker in makers.items()}
    else:
        made = dict(makers)
        for maker in makers.values():
            values |= maker.numbers
    if "server" in made:
        values["server"] = made["server"]
    first = (made["client"],) if "optimizer" in inspect.signature(builder).parameters else ()
    if not first:
        values = {k: v for k, v in values.items() if not k.startswith("client_")}
    recipe = builder(*first, **values)
    if not isinstance(recipe, Recipe):
        remedy = f"must return a Recipe, and returned a {type(recipe).__name__}"
        raise InputError("algorithm.name", piece.name, remedy)
    return recipe


def _settings(experiment: Experiment, data: Federation) -> Settings:
    run, plan = experiment.run, experiment.plan
    cohort = data.n_clients if run.cohort == "all" else run.cohort
    if cohort is not None and cohort > data.n_clients:
        remedy = f'must be at most the population, {data.n_clients} clients, or "all"'
        raise InputError("run.cohort", cohort, remedy)
    values = run.model_dump() | {"cohort": cohort, "float64": plan.float64}
    for name in _PLAN_FIELDS:
        value = getattr(plan, name)
        values[name] = None if value == "auto" else value
    return Settings(**values)


def _model_table(experiment: Experiment, task: Table) -> Table:
    """[model] with the task's alphabet put in where the model reads characters."""
    piece, values = experiment.pieces[MODEL], experiment.params(MODEL)
    if "vocab" in piece.fields and not piece.is_own:
        values.setdefault("vocab", task.get("vocab") or task.get("classes"))
        if values["vocab"] is None:
            raise InputError("model.vocab", MISSING, f"is needed by {piece.name}")
    return values


def _model(experiment: Experiment, values: Table) -> Any:
    piece = experiment.pieces[MODEL]
    if piece.takes("rngs"):
        return functools.partial(piece.build, **values)
    with within(MODEL, values):
        return piece.build(**values)


def _task_table(experiment: Experiment, data: Federation) -> Table:
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


def _task(experiment: Experiment, table: Table, model: Any, x_shape: Any, x_dtype: Any) -> Task:
    piece = pieces.find(TASK, table["name"])
    values = {k: v for k, v in table.items() if k != "name"}
    more: Table = {}
    build = piece.build
    if experiment.plan.float64 and not piece.is_own:
        import jax.numpy as jnp

        from fedjax_sim import tasks

        more["dtype"] = jnp.float64
        by_name = {"classification": tasks.classifier, "regression": tasks.regressor}
        build = by_name.get(table["name"], tasks.next_char)
    first = (model,) if piece.takes("model") else ()
    with within(TASK, values):
        made = build(*first, **values, **more)
    with _model_named(experiment, x_shape):
        task = made.bind(x_shape, _dtype(x_dtype, experiment)) if hasattr(made, "bind") else made
    if not isinstance(task, Task):
        remedy = f"must return a Task, and returned a {type(task).__name__}"
        raise InputError("task.name", table["name"], remedy)
    return _with_metrics(task, _metrics(experiment))


@contextlib.contextmanager
def _model_named(experiment: Experiment, x_shape: Any) -> Iterator[None]:
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


def _config_text(experiment: Experiment, filled: dict[str, Table], settings: Settings) -> str:
    plan = {n: v for n in _PLAN_FIELDS if (v := getattr(settings, n)) is not None}
    run = {} if settings.cohort is None else {"cohort": settings.cohort}
    named = {"metrics"} & experiment.table["task"].keys()
    own = {name: experiment.table["task"][name] for name in named}
    whole = filled | {"task": filled["task"] | own}
    whole["model"] = {"name": experiment.pieces[MODEL].name} | filled["model"]
    return dataclasses.replace(experiment, table=experiment.table | whole).to_toml(
        run=run, plan=plan
    )


def task_from_config(path: Path, *, x_shape: Any = None, x_dtype: Any = None) -> Task | None:
    """The task that a run's `config.toml` describes.

    Args:
      path: of `config.toml`.
      x_shape: shape of one input; without it the experiment's data are built to see it.
      x_dtype: dtype of the inputs.

    Returns:
      The task, or None where the file cannot say it any more (a piece of the user's own that
      is not to be found, data that are gone).
    """
    try:
        experiment = config.resolve(config.read(path))
        if x_shape is None:
            return build(experiment).task
        table = experiment.params(TASK)
        model = _model(experiment, _model_table(experiment, table))
        table.pop("metrics", None)
        table["name"] = experiment.pieces[TASK].name
        return _task(experiment, table, model, tuple(x_shape), x_dtype)
    except (InputError, KeyError):
        return None
