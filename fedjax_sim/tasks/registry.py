"""Models and tasks by name, for experiment files and the command line.

Builders take keyword parameters of plain types, so that `inspect.signature` documents them
and a table such as `{name = "mlp", widths = [200, 200]}` calls them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_sim.core.checks import InputError, choice
from fedjax_sim.core.contracts import Task
from fedjax_sim.tasks import build, models
from fedjax_sim.tasks.build import TaskSpec
from fedjax_sim.tasks.cnn_heterofl import cnn_heterofl
from fedjax_sim.tasks.mixed import mixed
from fedjax_sim.tasks.networks import ModelSpec


class Entry(NamedTuple):
    """One line of a registry.

    Attributes:
      build: a function of keyword parameters of plain types.
      doc: one line for listings.
    """

    build: Callable[..., Any]
    doc: str


def _mlp(
    *,
    widths: Sequence[int] = (200, 200),
    init: str = "he",
    norm: str = "none",
    norm_groups: int | None = None,
    norm_momentum: float | None = None,
) -> ModelSpec:
    # A table from a file may hold anything.
    if not isinstance(widths, (list, tuple)):
        raise InputError("widths", widths, "must be a list of whole numbers")
    return models.mlp(
        *widths, init=init, norm=norm, norm_groups=norm_groups, norm_momentum=norm_momentum
    )


def _mlp_exits(*, widths: Sequence[int] = (200, 200, 200), init: str = "he") -> ModelSpec:
    if not isinstance(widths, (list, tuple)):
        raise InputError("widths", widths, "must be a list of whole numbers")
    return models.mlp_exits(*widths, init=init)


def _mixed(*, models: Sequence[Any] = ("mlp", "cnn_w1", "logistic"), width: int = 32) -> ModelSpec:
    if not isinstance(models, (list, tuple)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError("models", models, "must be a list of names or tables of models")
    tables = [{"name": m} if isinstance(m, str) else m for m in models]
    return mixed(*(model_from(t) for t in tables), width=width)


def _cnn_heterofl(
    *, widths: Sequence[int] = (64, 128, 256, 512), init: str = "he", norm: str = "batch"
) -> ModelSpec:
    if not isinstance(widths, (list, tuple)):
        raise InputError("widths", widths, "must be a list of whole numbers")
    return cnn_heterofl(*widths, init=init, norm=norm)


def _classification(model: Any, *, classes: int, label_smoothing: float = 0.0) -> Task | TaskSpec:
    return build.classifier(model, classes, label_smoothing=label_smoothing)


def _regression(model: Any, *, outputs: int = 1) -> Task | TaskSpec:
    return build.regressor(model, outputs)


def _next_char(model: Any, *, vocab: int, pad: int | None = None) -> Task | TaskSpec:
    return build.next_char(model, vocab, pad=pad)


MODELS: dict[str, Entry] = {
    "logistic": Entry(models.logistic, "linear model on the flattened input"),
    "mlp": Entry(_mlp, "fully connected ReLU network"),
    "cnn_mcmahan": Entry(models.cnn_mcmahan, "5x5 MNIST CNN of the FedAvg paper"),
    "cnn_w1": Entry(models.cnn_w1, "3x3 CIFAR-10 CNN by which simulators are timed"),
    "mlp_exits": Entry(_mlp_exits, "fully connected ReLU network with an exit after each layer"),
    "mixed": Entry(_mixed, "several networks, of which each client has one"),
    "cnn_heterofl": Entry(_cnn_heterofl, "3x3 MNIST CNN with batch norm, by HeteroFL's levels"),
    "lstm_chars": Entry(models.lstm_chars, "character LSTM of the Shakespeare benchmark"),
}

TASKS: dict[str, Entry] = {
    "classification": Entry(_classification, "softmax cross entropy, accuracy"),
    "regression": Entry(_regression, "mean squared error"),
    "next_char": Entry(_next_char, "cross entropy at every character of a sequence"),
}


def model_from(config: Mapping[str, Any]) -> ModelSpec:
    """Build a model from a table such as `{"name": "mlp", "widths": [200, 200]}`.

    Args:
      config: `name`, and the parameters of that model.

    Returns:
      The spec.

    Raises:
      InputError: for an unknown name, and unknown or missing parameters (`model.widths`).
    """
    return _build("model", MODELS, config)


def task_from(config: Mapping[str, Any], model: Any) -> Task | TaskSpec:
    """Build a task from a table such as `{"name": "classification", "classes": 10}`.

    Args:
      config: `name`, and the parameters of that task.
      model: anything that `networks.as_network` takes.

    Returns:
      What the builder returns: a `TaskSpec`, to be bound to the data's shapes.

    Raises:
      InputError: for an unknown name, and unknown or missing parameters (`task.classes`).
    """
    return _build("task", TASKS, config, model)


def _build(field: str, table: dict[str, Entry], config: Mapping[str, Any], *given: Any) -> Any:
    name = config.get("name")
    choice(f"{field}.name", name, table)
    make = table[str(name)].build
    declared = list(inspect.signature(make).parameters.values())[len(given) :]
    values = {k: v for k, v in config.items() if k != "name"}
    names = [p.name for p in declared]
    for key in values:
        choice(f"{field}.{key}", key, names)
    for parameter in declared:
        if parameter.default is parameter.empty and parameter.name not in values:
            raise InputError(f"{field}.{parameter.name}", None, f"is needed by {name}")
    try:
        return make(*given, **values)
    except InputError as error:
        raise InputError(f"{field}.{error.field}", error.value, _remedy(error)) from error


def _remedy(error: InputError) -> str:
    return str(error).split(": ", 1)[-1]
