"""From a validated experiment to the four things a run needs: recipe, task, data, settings."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_sim.algorithms.batch_norm import batch_norm
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Task
from fedjax_sim.data.federated import Federation, check_labels, check_shards
from fedjax_sim.data.public import public_share
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.experiment import config, optimizers
from fedjax_sim.experiment.build_task import make_model, make_task, model_table, task_table, within
from fedjax_sim.experiment.config import Experiment, Table
from fedjax_sim.experiment.evaluation import Evaluation
from fedjax_sim.experiment.pieces import ALGORITHM, DATA, MODEL, PARTITION, PLANT, TASK, Piece
from fedjax_sim.experiment.policy import Policy
from fedjax_sim.experiment.sections import BATCH_FIELDS
from fedjax_sim.experiment.settings import AUTO, Diagnosis, Settings
from fedjax_sim.experiment.systems import Systems

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


def build(experiment: Experiment, data: Federation | None = None) -> Built:
    """Build everything; writes nothing.

    Args:
      experiment: validated.
      data: what `federation(experiment)` made before, for sweeps.

    Raises:
      InputError: naming the field of the experiment.
    """
    data = federation(experiment) if data is None else data
    settings = _settings(experiment, data)
    recipe = make_recipe(experiment, _facts(experiment, data), data.train.sizes)
    table = task_table(experiment, data)
    filled = {"task": table, "model": model_table(experiment, table)}
    model = make_model(experiment, filled["model"])
    task = make_task(experiment, table, model, data.train.x.shape[1:], data.train.x.dtype)
    facts = {
        "algorithm": recipe.name,
        "dataset": data.name,
        "model": getattr(model, "name", None) or experiment.pieces[MODEL].name,
    }
    text = functools.partial(_config_text, experiment, filled)
    return Built(recipe, task, data, settings, text, facts)


def _facts(experiment: Experiment, data: Federation) -> dict[str, Any]:
    """What the data know of themselves, with a public share where the algorithm asks for one."""
    entry = experiment.pieces[ALGORITHM].entry
    if entry is None or "public" not in entry.from_data.values():
        return data.meta
    return {"public": public_share(data)} | data.meta


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
            values["partition"] = experiment.pieces[PARTITION].make()(**part)
    with within(DATA, experiment.params(DATA)), within(PARTITION, experiment.params(PARTITION)):
        made = _checked(piece, piece.make()(**values))
    if PLANT not in experiment.pieces:
        return made
    plant, params = experiment.pieces[PLANT], experiment.params(PLANT)
    with within(PLANT, params):
        return _checked(plant, plant.make()(made, **params))


def _checked(piece: Piece, made: Any) -> Federation:
    """What a dataset or a plant returned, refused where it is no federation or a bad one."""
    if not isinstance(made, Federation):
        remedy = f"must return a Federation, and returned a {type(made).__name__}"
        raise InputError(f"{piece.section}.name", piece.name, remedy)
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


def make_recipe(experiment: Experiment, meta: dict[str, Any], sizes: Any = None) -> Recipe:
    """The experiment's algorithm; every number of its sections but whole ones is a traced leaf.

    Args:
      experiment: validated.
      meta: what the data know of themselves, for algorithms that ask for it.
      sizes: int `[N]`, clients' examples; None where only the recipe's numbers are wanted.
    """
    piece, client = experiment.pieces[ALGORITHM], experiment.client
    entry = piece.entry
    assert entry is not None
    builder = piece.make()
    values = experiment.params(ALGORITHM)
    values |= {name: getattr(client, theirs) for name, theirs in entry.from_client.items()}
    values |= {n: meta[key] for n, key in entry.from_data.items() if key in meta}
    if values.get("weighting") == "groups" and sizes is not None:
        values["weighting"] = _by_group(meta, sizes)
    if entry.batches:
        values |= {name: getattr(client, name) for name in BATCH_FIELDS}
        values["batch_size"] = None if client.batch_size == "full" else client.batch_size
    makers = {"client": optimizers.maker("client", client, rounds=experiment.run.rounds)}
    if experiment.server is not None:
        rounds = experiment.run.rounds
        makers["server"] = optimizers.maker("server", experiment.server, rounds=rounds)
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
    return _under_policy(recipe, experiment)


def _by_group(meta: dict[str, Any], sizes: Any) -> Callable[..., Any]:
    """`algorithm.weighting = "groups"`, the groups being those planted in the data."""
    from fedjax_sim.clients.weights import by_group

    if "group" not in meta:
        remedy = "needs data whose clients have groups, such as those of synthetic clusters"
        raise InputError("algorithm.weighting", "groups", remedy)
    return by_group(meta["group"], sizes)


def _under_policy(recipe: Recipe, experiment: Experiment) -> Recipe:
    """The recipe under the experiment's batch-norm policy."""
    policy = experiment.client.batch_norm
    if policy is None:
        return recipe
    values = {n: v for n, v in policy.model_dump().items() if n != "name" and v is not None}
    return batch_norm(recipe, policy.name, rounds=experiment.run.rounds, **values)


def _settings(experiment: Experiment, data: Federation) -> Settings:
    run, plan = experiment.run, experiment.plan
    cohort = data.n_clients if run.cohort == "all" else run.cohort
    if cohort is not None and cohort > data.n_clients:
        remedy = f'must be at most the population, {data.n_clients} clients, or "all"'
        raise InputError("run.cohort", cohort, remedy)
    values: dict[str, Any] = run.model_dump() | {"cohort": cohort}
    values |= {name: getattr(plan, name) for name in ("lowering", "client_state", "float64")}
    values["diagnosis"] = Diagnosis(**experiment.diagnosis.model_dump())
    values["policy"] = Policy(**experiment.policy.model_dump())
    if experiment.systems is not None:
        values["systems"] = Systems(**experiment.systems.model_dump())
    if experiment.evaluation is not None:
        values["evaluation"] = Evaluation(**experiment.evaluation.model_dump())
    for name in _PLAN_FIELDS:
        value = getattr(plan, name)
        values[name] = None if value == "auto" else value
    return Settings(**values)


def _config_text(experiment: Experiment, filled: dict[str, Table], settings: Settings) -> str:
    plan = {n: v for n in _PLAN_FIELDS if (v := getattr(settings, n)) is not None}
    plan |= {} if settings.client_state == AUTO else {"client_state": settings.client_state}
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
        model = make_model(experiment, model_table(experiment, table))
        table.pop("metrics", None)
        table["name"] = experiment.pieces[TASK].name
        return make_task(experiment, table, model, tuple(x_shape), x_dtype)
    except (InputError, KeyError):
        return None
