"""The named pieces of an experiment, ours from the registries and the user's own by import.

A user's own piece is named `package.module:function` in place of a registered name. It is
imported only when named, and also from the folder in which the command runs.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field

from fedjax_sim.algorithms.entry import Entry, Param
from fedjax_sim.algorithms.registry import ALGORITHMS
from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.messages import one_of
from fedjax_sim.experiment.sections import BATCH_FIELDS

DATA, PARTITION, MODEL, TASK, ALGORITHM = "data", "data.partition", "model", "task", "algorithm"
PLANT = "data.plant"
PIECES = (DATA, PARTITION, PLANT, MODEL, TASK, ALGORITHM)
_TAKEN_ELSEWHERE = {
    DATA: {"partition"},
    MODEL: {"rngs", "parent", "name"},
    TASK: {"model"},
    ALGORITHM: {"optimizer", "server", "batches", *BATCH_FIELDS},
}
_FILLED_IN = {TASK: {"classes", "vocab", "outputs"}, MODEL: {"vocab"}}
_PLAIN: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "Sequence[int]": list[int],
    "Sequence[float]": list[float],
    "Sequence[str]": list[str],
    "list[int]": list[int],
    "list[float]": list[float],
    "list[str]": list[str],
}


class Piece(NamedTuple):
    """One named piece.

    Attributes:
      section: where it is named.
      name: registered, or `package.module:function`.
      builder: the function; None for registered algorithms, which `make` imports.
      fields: `{parameter: (type, pydantic field)}`.
      is_open: it takes keywords that it does not name.
      entry: what an algorithm takes; None for other pieces.
    """

    section: str
    name: str
    builder: Callable[..., Any] | None
    fields: dict[str, tuple[Any, Any]]
    is_open: bool = False
    entry: Entry | None = None

    def takes(self, argument: str) -> bool:
        """Whether the builder has a parameter of this name."""
        return self.builder is not None and argument in inspect.signature(self.builder).parameters

    def make(self) -> Callable[..., Any]:
        """The builder, imported where it was not yet."""
        if self.builder is not None:
            return self.builder
        assert self.entry is not None
        return self.entry.load()

    @property
    def is_own(self) -> bool:
        """Whether it is the user's own."""
        return ":" in self.name


def names(section: str) -> list[str]:
    """The registered names of a section."""
    return list(_registry(section))


def find(section: str, name: Any) -> Piece:
    """The piece of that name.

    Raises:
      InputError: unknown, or an own piece that cannot be imported.
    """
    if isinstance(name, str) and ":" in name:
        return _own(section, name)
    registry = _registry(section)
    if not isinstance(name, str) or name not in registry:
        remedy = f'{one_of(name, registry)}; or "package.module:function" of your own'
        raise InputError(f"{section}.name", name, remedy)
    entry = registry[name]
    if section == ALGORITHM:
        return Piece(section, name, None, _declared(entry), entry=entry)
    build = entry.builder if hasattr(entry, "builder") else entry.build
    return Piece(section, name, build, _signature_fields(section, build))


def load_own(field: str, name: str) -> Callable[..., Any]:
    """Import `package.module:function`, from the working folder too.

    Raises:
      InputError: no such module, no such name in it, or nothing that can be called.
    """
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    if not module or not attribute:
        raise InputError(field, name, 'must be "package.module:function"')
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        remedy = f"there is no module {error.name!r}; it must be installed or lie in {here}"
        raise InputError(field, name, remedy) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")]
            remedy = f"{module} has no {part!r}; {one_of(part, public, what='it has')}"
            raise InputError(field, name, remedy)
        found = getattr(found, part)
    if not callable(found):
        raise InputError(field, name, f"must name a function, and is a {type(found).__name__}")
    return found


def _registry(section: str) -> dict[str, Any]:
    if section == ALGORITHM:
        return ALGORITHMS
    if section in (DATA, PARTITION, PLANT):
        from fedjax_sim.data.registry import DATASETS, PARTITIONS, PLANTS

        return {DATA: DATASETS, PARTITION: PARTITIONS, PLANT: PLANTS}[section]
    from fedjax_sim.tasks import registry as tasks

    return tasks.MODELS if section == MODEL else tasks.TASKS


def _own(section: str, name: str) -> Piece:
    build = load_own(f"{section}.name", name)
    signature = inspect.signature(build)
    is_open = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    entry = None
    if section == ALGORITHM:
        takes = signature.parameters.keys()
        entry = Entry(name, "", batches="epochs" in takes, server="server" in takes)
    return Piece(section, name, build, _signature_fields(section, build), is_open, entry)


def _declared(entry: Entry) -> dict[str, tuple[Any, Any]]:
    """Fields of a registered algorithm's parameters."""
    fields: dict[str, tuple[Any, Any]] = {}
    for name, p in entry.params.items():
        if p.forms:
            fields[name] = (_word_or_form(p), p.default)
        elif p.choices:
            fields[name] = (Literal[p.choices], p.default)
        else:
            bounds = {"ge": p.low, "le": p.high, "gt": p.above, "lt": p.below}
            given: dict[str, Any] = {k: v for k, v in bounds.items() if v is not None}
            fields[name] = (p.type, Field(p.default, **given))
    return fields


def _word_or_form(p: Param) -> Any:
    """The type of a field that takes a word, or a word with a number after its colon."""
    heads = {form.partition(":")[0] for form in p.forms}

    def check(value: str) -> str:
        head, colon, number = value.partition(":")
        if value in p.choices or (colon and head in heads and number.strip()):
            return value
        raise ValueError(one_of(value, (*p.choices, *p.forms)))

    return Annotated[str, AfterValidator(check)]


def _signature_fields(section: str, build: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    fields: dict[str, tuple[Any, Any]] = {}
    for place, (name, p) in enumerate(inspect.signature(build).parameters.items()):
        if section == PLANT and place == 0:
            continue  # the federation
        variadic = p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if variadic or name in _TAKEN_ELSEWHERE.get(section, ()):
            continue
        kind, default = _type(p.annotation), p.default
        if isinstance(default, tuple):
            default = list(default)  # as a file would give it
        if name in _FILLED_IN.get(section, ()):
            kind, default = kind | None, None
        elif default is p.empty:
            default = ...
        elif default is None:
            kind = kind | None if kind is not Any else Any
        fields[name] = (kind, default)
    return fields


def _type(annotation: Any) -> Any:
    """A plain type for an annotation or its text; `Any` leaves the check to the builder."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return _PLAIN.get(text.removesuffix(" | None").strip(), Any)
