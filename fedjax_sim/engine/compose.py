"""Recipes: an algorithm as a client update, an aggregator and a server update.

`compose(client, aggregator, server)` is a recipe with its constants built in. The `recipe`
decorator turns a function whose body is one `compose` into a builder of recipes whose
numbers are traced leaves: new values compile nothing, and sweeps stack them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from fedjax_sim.core.checks import InputError, number
from fedjax_sim.core.contracts import Aggregator, ClientUpdate, ServerUpdate, Task
from fedjax_sim.core.types import PyTree
from fedjax_sim.data.batching import Batches

_BATCH_FIELDS: dict[str, Any] = {
    "epochs": 1,
    "steps": None,
    "batch_size": 10,
    "last": "partial",
    "shuffle": True,
}


_NEEDED = {"optimizer", "server"}
_OPTIMIZERS = _NEEDED | {"tuner"}
"""Arguments of recipes that are optimizers; those not needed may be None."""


class OfTask(NamedTuple):
    """A `model_of` that needs the task, to measure losses on the client's own examples.

    Attributes:
      build: `Task -> ((ctx, server_state, row, data) -> Model)`.
    """

    build: Callable[[Task], Callable[..., PyTree]]


class Parts(NamedTuple):
    """The pieces of one algorithm, hyper-parameters filled in.

    Attributes:
      client: `Task -> ClientUpdate`.
      aggregator: folds reports.
      server: what the server does.
      model_of: `(ctx, server_state, row, data) -> Model` for personal models (`OfTask` where
        that takes the task), or None when every client uses the global one.
      shared: False where no model is shared (`local_only`).
      groups: M where each client belongs to one of M groups, told by `aux["group"]` and
        recorded; 0 where there are none.
      predict: `Task -> ((Model, x) -> outputs)` where clients' models, those that `model_of`
        gives, predict otherwise than the task's do; None for the task's own.
    """

    client: Callable[[Task], ClientUpdate]
    aggregator: Aggregator
    server: ServerUpdate
    model_of: Callable[..., PyTree] | OfTask | None = None
    shared: bool = True
    groups: int = 0
    predict: Callable[[Task], Callable[..., PyTree]] | None = None


class Recipe(NamedTuple):
    """An algorithm that waits for a task and a plan.

    Attributes:
      build: `(**hyper) -> Parts`, called inside the trace.
      hyper: `{name: float}`, the numbers that may change without compiling.
      name: for records.
      cohort: the cohort size that the algorithm insists on, or None.
    """

    build: Callable[..., Parts]
    hyper: dict[str, Any]
    name: str = "custom"
    cohort: int | None = None


def compose(
    client: Callable[[Task], ClientUpdate],
    aggregator: Aggregator,
    server: ServerUpdate,
    *,
    model_of: Callable[..., PyTree] | OfTask | None = None,
    shared: bool = True,
    groups: int = 0,
    predict: Callable[[Task], Callable[..., PyTree]] | None = None,
    cohort: int | None = None,
) -> Recipe:
    """A recipe from its three pieces; see `Parts` for the arguments."""
    parts = Parts(client, aggregator, server, model_of, shared, groups, predict)
    return Recipe(lambda: parts, {}, cohort=cohort)


def recipe(body: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """Make a builder whose float arguments are traced hyper-parameters.

    The body's own parameters are the builder's. Beyond them the builder takes:

    - `epochs, steps, batch_size, last, shuffle`, gathered into the body's `batches`;
    - the named arguments of an optimizer given as a function, so that
      `fedavg(lambda lr: optax.sgd(lr), lr=0.1)` has `lr` as a hyper-parameter.

    Floats become `Recipe.hyper`; everything else is static.

    Raises:
      InputError: an argument that nothing takes, or a number that is not finite.

    Example:
      >>> import optax
      >>> from fedjax_sim.algorithms.fedavg import fedavg
      >>> sorted(fedavg(lambda lr: optax.sgd(lr), lr=0.1, epochs=2).hyper)
      ['lr']
    """
    signature = inspect.signature(body)

    @functools.wraps(body)
    def make(*args: Any, **given: Any) -> Recipe:
        fields = {n: given.pop(n) for n in _BATCH_FIELDS if n in given}
        own = {n: given.pop(n) for n in list(given) if n in signature.parameters}
        _fill_batches(fields, own, signature)
        try:
            bound = signature.bind(*args, **own)
        except TypeError as error:
            raise InputError(f"algorithm.{body.__name__}", "arguments", str(error)) from None
        bound.apply_defaults()
        arguments = _floats(dict(bound.arguments), signature)
        wanted = {n: _factory_needs(v, given) for n, v in arguments.items()}
        _refuse_unknown(body.__name__, given, wanted, signature)
        hyper = {n: v for n, v in arguments.items() if _is_float(v)} | given
        for name, value in hyper.items():
            number(f"algorithm.{name}", value)
        build = functools.partial(_build, body, arguments, wanted)
        filled = _filled(arguments, wanted, hyper)
        for name in filled.keys() & _OPTIMIZERS:
            if name in _NEEDED or filled[name] is not None:
                _refuse_no_optimizer(name, filled[name])
        trial = body(**filled)
        return Recipe(build, hyper, body.__name__, trial.cohort)

    make.__signature__ = _public_signature(signature)  # type: ignore[attr-defined]
    return make


def _build(
    body: Callable[..., Recipe],
    arguments: dict[str, Any],
    wanted: dict[str, list[str]],
    **hyper: Any,
) -> Parts:
    return body(**_filled(arguments, wanted, hyper)).build()


def _filled(
    arguments: dict[str, Any], wanted: dict[str, list[str]], hyper: dict[str, Any]
) -> dict[str, Any]:
    """The body's arguments with hyper-parameters put in and optimizer functions called."""
    filled = {n: hyper.get(n, v) for n, v in arguments.items()}
    for name, needs in wanted.items():
        if needs:
            filled[name] = arguments[name](**{n: hyper[n] for n in needs})
    return filled


def _fill_batches(fields: dict[str, Any], own: dict[str, Any], of: inspect.Signature) -> None:
    if not fields:
        return
    if "batches" not in of.parameters or "batches" in own:
        field = next(iter(fields))
        raise InputError(f"algorithm.{field}", fields[field], "is not taken beside `batches`")
    if "steps" in fields and fields["steps"] is not None and "epochs" not in fields:
        fields["epochs"] = None
    values = _BATCH_FIELDS | fields
    values["size"] = values.pop("batch_size")
    own["batches"] = Batches(**values)


def _factory_needs(value: Any, given: dict[str, Any]) -> list[str]:
    """Names among `given` that an optimizer function takes."""
    if isinstance(value, tuple) or not callable(value):
        return []
    return [n for n in inspect.signature(value).parameters if n in given]


def _floats(arguments: dict[str, Any], of: inspect.Signature) -> dict[str, Any]:
    """Whole numbers given for a float parameter as floats, so that they are traced too."""

    def convert(name: str, value: Any) -> Any:
        wanted = isinstance(of.parameters[name].default, float)
        whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if wanted and whole else value

    return {name: convert(name, value) for name, value in arguments.items()}


def _is_float(value: Any) -> bool:
    is_array = hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0
    return isinstance(value, float) or is_array


def _refuse_unknown(
    name: str, given: dict[str, Any], wanted: dict[str, list[str]], of: inspect.Signature
) -> None:
    taken = {n for needs in wanted.values() for n in needs}
    for unknown in given.keys() - taken:
        accepted = [n for n in of.parameters if n != "batches"]
        accepted += list(_BATCH_FIELDS) if "batches" in of.parameters else []
        remedy = f"{name} takes {', '.join(accepted)}, and the names of an optimizer function"
        raise InputError(f"algorithm.{unknown}", given[unknown], remedy)


def _public_signature(of: inspect.Signature) -> inspect.Signature:
    parameters = [p for p in of.parameters.values() if p.name != "batches"]
    if "batches" in of.parameters:
        parameters += [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d)
            for n, d in _BATCH_FIELDS.items()
        ]
    order = sorted(parameters, key=lambda p: p.kind)
    return of.replace(parameters=order)


def _refuse_no_optimizer(field: str, value: Any) -> None:
    if hasattr(value, "init") and hasattr(value, "update"):
        return
    remedy = "must be an optax transformation such as optax.sgd(0.1)"
    if callable(value):
        remedy += ", or give its arguments too: fedavg(lambda lr: optax.sgd(lr), lr=0.1)"
    raise InputError(field, value, remedy)
