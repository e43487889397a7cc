"""Experiment files: read, overridden, validated once, and written out resolved.

A file has the sections [data] with [data.partition] and [data.plant], [model], [task],
[algorithm], [client], [server], [run], [diagnosis], [policy], [systems],
[evaluation] and [plan]. `resolve` gives an `Experiment`; its `to_toml` alone runs again.
"""

from __future__ import annotations

import copy
import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from fedjax_sim.algorithms.registry import ALGORITHMS
from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import pieces, schema
from fedjax_sim.experiment.messages import MISSING, explain
from fedjax_sim.experiment.pieces import ALGORITHM, DATA, MODEL, PARTITION, PLANT, Piece
from fedjax_sim.experiment.sections import (
    BATCH_FIELDS,
    Diagnosis,
    Evaluation,
    Plan,
    Policy,
    Run,
    Systems,
)

DEFAULT = Path(__file__).with_name("default.toml")
Table = dict[str, Any]
_NO_PARAMETERS = ("name", "partition", "plant")
_NAMES = {DATA: "digits", PARTITION: "dirichlet", MODEL: "mlp", ALGORITHM: "fedavg"}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A validated experiment.

    Attributes:
      table: all sections as plain values, defaults filled in.
      pieces: the named pieces by section; `task` is absent where the data decide.
      client: the validated [client].
      server: the validated [server], or None.
      run: the validated [run].
      diagnosis: the validated [diagnosis].
      policy: the validated [policy].
      systems: the validated [systems], or None.
      evaluation: the validated [evaluation], or None.
      plan: the validated [plan].
      notes: what a person should be told: keys that a renamed piece left behind.
    """

    table: Table
    pieces: dict[str, Piece]
    client: Any
    server: Any
    run: Run
    diagnosis: Diagnosis
    policy: Policy
    plan: Plan
    systems: Systems | None = None
    evaluation: Evaluation | None = None
    notes: tuple[str, ...] = ()

    def params(self, section: str) -> Table:
        """A piece's parameters as given or by default, without its name."""
        return {k: v for k, v in _at(self.table, section).items() if k not in _NO_PARAMETERS}

    def to_toml(self, **changes: Table) -> str:
        """The resolved experiment as text.

        Args:
          **changes: `{section: {key: value}}` put over it, such as the plan that was chosen.
        """
        return tomli_w.dumps(merge(self.table, changes))


def read(path: Path | None) -> Table:
    """The table of an experiment file; None reads the bundled default.

    Raises:
      InputError: no such file, a folder, not UTF-8, or not TOML.
    """
    path = DEFAULT if path is None else path
    field = "experiment file"
    if path.is_dir():
        raise InputError(field, str(path), "must be a TOML file, and is a folder")
    if not path.is_file():
        raise InputError(field, str(path), "there is no such file; give the path of a TOML file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(field, str(path), f"must be UTF-8 text: {error.reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(field, str(path), f"must be valid TOML: {error}") from error
    except OSError as error:
        raise InputError(field, str(path), f"cannot be read: {error.strerror}") from error


def parse_value(key: str, text: str) -> Any:
    """The value of an override: TOML, or a bare word, which is text.

    Example:
      >>> parse_value("model.widths", "[64, 64]"), parse_value("client.optimizer", "adam")
      ([64, 64], 'adam')
    """
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if text[:1] in tuple("[{\"'"):
            raise InputError(key, text, f"must be valid TOML: {error}") from error
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def overrides_table(pairs: Mapping[str, Any]) -> Table:
    """`{"client.epochs": 2}` as `{"client": {"epochs": 2}}`.

    Raises:
      InputError: a key that is no section's, or one that is both a value and a section.
    """
    table: Table = {}
    for key, value in pairs.items():
        *sections, last = key.split(".")
        if not all(sections) or not last or not sections:
            raise InputError(f"--{key}", value, "must be --section.key, such as --client.epochs")
        at = table
        for depth, section in enumerate(sections):
            at = at.setdefault(section, {})
            if not isinstance(at, dict):
                raise InputError(key, value, f"{'.'.join(sections[: depth + 1])} is given a value")
        if isinstance(at.get(last), dict):
            raise InputError(key, value, "is a section of which keys are given too")
        at[last] = value
    return table


def merge(under: Table, over: Table) -> Table:
    """A new table with the values of `over` put over those of `under`, section by section."""
    out = copy.deepcopy(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merge(out[key], value) if both else copy.deepcopy(value)
    return out


def resolve(file: Table, overrides: Table | None = None) -> Experiment:
    """Validate a file's table with overrides put over it, once.

    Where an override names another piece (`--algorithm fedsgd`), the file's parameters that
    the new piece does not take are left behind, and `notes` says so.

    Raises:
      InputError: the first fault, the others named after it.
    """
    overrides = overrides or {}
    suited = _suited(file, overrides)
    merged = merge(suited, overrides)
    found = _find_pieces(merged)
    kept, notes = _leave_behind(merged, file, overrides, found)
    if suited is not file:
        notes.append(f"model: {found[MODEL].name}, which {found[ALGORITHM].name} needs")
    _refuse_server(kept, found[ALGORITHM])
    for section in schema.SECTIONS:
        kept.setdefault(section, {})
    if PARTITION in found and isinstance(kept[DATA], dict):
        kept[DATA].setdefault("partition", {})
    model = schema.experiment_model(kept, found)
    try:
        valid: Any = model.model_validate(kept)
    except ValidationError as error:
        raise explain(error, lambda loc: schema.accepted(model, loc)) from None
    return Experiment(
        table=_tidy(valid.model_dump(exclude_none=True)),
        pieces=found,
        client=valid.client,
        server=getattr(valid, "server", None),
        run=valid.run,
        diagnosis=valid.diagnosis,
        policy=valid.policy,
        systems=valid.systems,
        evaluation=valid.evaluation,
        plan=valid.plan,
        notes=tuple(notes),
    )


def _suited(file: Table, overrides: Table) -> Table:
    """The bundled file with the model that an override's algorithm needs; any other as it is."""
    entry = ALGORITHMS.get(_at(overrides, ALGORITHM).get("name", ""))
    if entry is None or entry.model is None or "name" in _at(overrides, MODEL):
        return file
    if file != read(None):
        return file
    return file | {MODEL: dict(entry.model)}


def _at(table: Any, section: str) -> Table:
    for part in section.split("."):
        table = table.get(part, {}) if isinstance(table, Mapping) else {}
    return table if isinstance(table, dict) else {}


def _find_pieces(merged: Table) -> dict[str, Piece]:
    found: dict[str, Piece] = {}
    for section in pieces.PIECES:
        name = _at(merged, section).get("name", _NAMES.get(section))
        if section == PARTITION and not _takes_partition(found[DATA]):
            continue
        if section == PLANT and name is None and "plant" in _at(merged, DATA):
            name = MISSING
        if name is not None:
            found[section] = pieces.find(section, name)
    return found


def _takes_partition(data: Piece) -> bool:
    return data.takes("partition")


def _leave_behind(
    merged: Table, file: Table, overrides: Table, found: dict[str, Piece]
) -> tuple[Table, list[str]]:
    """Drop the file's keys that a piece renamed by an override does not take."""
    kept, gone = copy.deepcopy(merged), []
    for section, piece in found.items():
        if _renamed(section, file, overrides) and not piece.is_open:
            for key in _at(file, section).keys() - piece.fields.keys() - {*_NO_PARAMETERS}:
                gone.append(_drop(kept, overrides, section, key))
    if PARTITION not in found and _renamed(DATA, file, overrides):
        gone.append(_drop(kept, overrides, DATA, "partition"))
    entry = found[ALGORITHM].entry
    if entry is not None and _renamed(ALGORITHM, file, overrides):
        stale = () if entry.batches else BATCH_FIELDS
        stale += () if entry.schedule else ("schedule",)
        tuned = entry.client_rate is not None and file == read(None)
        stale += ("learning_rate",) if tuned else ()  # for the algorithm of the bundled file
        gone += [_drop(kept, overrides, "client", key) for key in stale]
        if not entry.server and "server" not in overrides and kept.pop("server", None):
            gone.append("server")
    if _changed(file, overrides, "client", "optimizer"):
        own = ("momentum", "nesterov", "optimizer_params")
        gone += [_drop(kept, overrides, "client", key) for key in own]
    return kept, [f"{key} of the file is left out" for key in sorted(filter(None, gone))]


def _drop(kept: Table, overrides: Table, section: str, key: str) -> str:
    """Remove a key that no override gives; its dotted name, or nothing."""
    if key in _at(overrides, section) or key not in _at(kept, section):
        return ""
    del _at(kept, section)[key]
    return f"{section}.{key}"


def _renamed(section: str, file: Table, overrides: Table) -> bool:
    return _changed(file, overrides, section, "name")


def _changed(file: Table, overrides: Table, section: str, key: str) -> bool:
    new = _at(overrides, section).get(key)
    return new is not None and new != _at(file, section).get(key)


def _refuse_server(kept: Table, algorithm: Piece) -> None:
    if "server" in kept and algorithm.entry is not None and not algorithm.entry.server:
        able = ", ".join(n for n, e in ALGORITHMS.items() if e.server)
        remedy = f"{algorithm.name} takes no [server] optimizer; these do: {able}"
        raise InputError("server", kept["server"], remedy)


def _tidy(table: Table) -> Table:
    """The sections without empty tables."""
    ordered = dict(table)
    if not ordered["client"].get("optimizer_params", True):
        del ordered["client"]["optimizer_params"]
    if "server" in ordered and not ordered["server"]["optimizer_params"]:
        del ordered["server"]["optimizer_params"]
    if ordered["client"].get("schedule", {}).get("name") == "none":
        del ordered["client"]["schedule"]
    if not ordered["task"]["metrics"]:
        del ordered["task"]["metrics"]
    return ordered
