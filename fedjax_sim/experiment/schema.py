"""The pydantic model of one experiment, made of the sections that its pieces take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, create_model, field_validator

from fedjax_sim.algorithms.entry import Entry
from fedjax_sim.experiment.pieces import ALGORITHM, DATA, MODEL, PARTITION, PLANT, TASK, Piece
from fedjax_sim.experiment.sections import (
    BATCH_FIELDS,
    Client,
    Diagnosis,
    Evaluation,
    Optimizer,
    Plan,
    Policy,
    Run,
    Server,
    Strict,
    Systems,
    bounded_steps,
)

SECTIONS = (
    *("data", "model", "task", "algorithm", "client", "run", "diagnosis", "policy", "plan"),
)
_RATE = 0.1
_PARTITION_DEFAULTS = {"clients": 100, "alpha": 0.3}
_METRICS: dict[str, Any] = {"metrics": (list[str], [])}


def experiment_model(raw: Mapping[str, Any], found: Mapping[str, Piece]) -> type[Strict]:
    """The pydantic model of an experiment.

    Args:
      raw: its table; every section that the model has is there, if empty.
      found: its pieces by section; without a `task` the data will say which.
    """
    entry = found[ALGORITHM].entry
    assert entry is not None
    task = _task_by_data() if TASK not in found else _piece_model(found[TASK], **_METRICS)
    sections: dict[str, Any] = {
        "data": (_data_model(raw, found), ...),
        "model": (_piece_model(found[MODEL]), ...),
        "task": (task, ...),
        "algorithm": (_piece_model(found[ALGORITHM]), ...),
        "client": (_client_model(entry), ...),
        "server": (Server | None, None),
        "run": (Run, ...),
        "diagnosis": (Diagnosis, ...),
        "policy": (Policy, ...),
        "systems": (Systems | None, None),
        "evaluation": (Evaluation | None, None),
        "plan": (Plan, ...),
    }
    if not entry.server:
        del sections["server"]
    return create_model("experiment", __base__=Strict, **sections)


def _task_by_data() -> type[Strict]:
    """[task] without a name: the data say which."""
    numbers: dict[str, Any] = {n: (int | None, None) for n in ("classes", "vocab", "outputs")}
    return create_model("task", __base__=Strict, **_METRICS, **numbers)


def _piece_model(piece: Piece, **more: Any) -> type[Strict]:
    fields: dict[str, Any] = {"name": (str, piece.name), **piece.fields, **more}
    return create_model(piece.section, __base__=_Open if piece.is_open else Strict, **fields)


class _Open(Strict):
    model_config = ConfigDict(extra="allow")


def _data_model(raw: Mapping[str, Any], found: Mapping[str, Piece]) -> type[Strict]:
    plant: dict[str, Any] = {}
    if PLANT in found:
        plant["plant"] = (_piece_model(found[PLANT]), ...)
    if PARTITION not in found:
        return _piece_model(found[DATA], **plant)
    partition = found[PARTITION]
    data = raw.get("data")
    given = data.get("partition") if isinstance(data, Mapping) else None
    named = isinstance(given, Mapping) and "name" in given
    fields = {
        name: (kind, _PARTITION_DEFAULTS.get(name, default) if default is ... else default)
        for name, (kind, default) in partition.fields.items()
    }
    model = _piece_model(partition._replace(fields=partition.fields if named else fields))
    return _piece_model(found[DATA], partition=(model, ...), **plant)


def _client_model(entry: Entry) -> type[Strict]:
    """[client] as this algorithm takes it, its default rate put in."""
    rate = (float, Field(entry.client_rate or _RATE, gt=0))
    left_out = (() if entry.batches else BATCH_FIELDS) + (() if entry.schedule else ("schedule",))
    if not left_out:
        return create_model("client", __base__=Client, learning_rate=rate)
    kept: dict[str, Any] = {"learning_rate": rate}
    kept |= {
        name: (field.annotation, field)
        for name, field in Client.model_fields.items()
        if name not in left_out and name not in Optimizer.model_fields
    }
    ends = {"bounded": field_validator("steps")(bounded_steps)} if entry.batches else {}
    return create_model("client", __base__=Optimizer, __validators__=ends, **kept)


def accepted(model: type[Strict], loc: tuple[Any, ...]) -> list[str]:
    """The keys that the section at `loc` takes."""
    for part in loc:
        inner: Any = getattr(model.model_fields.get(str(part)), "annotation", None)
        options = [t for t in getattr(inner, "__args__", (inner,)) if hasattr(t, "model_fields")]
        if not options:
            return []
        model = options[0]
    return list(model.model_fields)
