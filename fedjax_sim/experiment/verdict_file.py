"""The offline door of the verdict: a run's folder, its records, or anybody's CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedjax_sim.core.checks import InputError
from fedjax_sim.diagnostics.beside import DRIFT, SPREAD
from fedjax_sim.diagnostics.verdict import Verdict, is_accuracy, verdict
from fedjax_sim.experiment import files
from fedjax_sim.experiment.records import Record

_DELIMITERS = ",;\t|"
_ABSENT = {"", "-", "na", "n/a", "none", "null"}
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "+inf": math.inf, "-inf": -math.inf}
_COUNTERS = ("round", "step", "epoch", "iteration", "iter", "time", "wall", "index")
_BESIDE = (
    "train_loss",
    "update_norm",
    "step_norm",
    "step_cosine",
    "gradient_norm",
    "test_loss",
    DRIFT,
    *SPREAD,
)


def verdict_of(
    given: str | Path | Sequence[Record],
    *,
    loss: str | None = None,
    metric: str | None = None,
    floor: float | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Verdict:
    """Judge records, or a file of them.

    Args:
      given: records, one mapping a round; or the path of a run's folder, of a `metrics.jsonl`
        (one JSON object a line) or of a CSV with a header.
      loss: the column to judge, lower being better; guessed when None.
      metric: a column to judge instead, higher being better and 1 (or 100) the best: an
        accuracy under any name.
      floor: the lowest value that the loss can have; 0 for a cross entropy or squared errors.
        When None, the one that the run judged itself by, if its folder is given and tells.
      facts: what is known of the run; see `diagnostics.causes.cause_of`.

    Returns:
      `Verdict`.

    Raises:
      InputError: where the file cannot be read, or the column is missing or cannot be guessed.
    """
    if loss is not None and metric is not None:
        raise InputError("metric", metric, f"give a loss or a metric, not both (loss = {loss})")
    records = read_series(given) if isinstance(given, (str, Path)) else list(given)
    if floor is None and isinstance(given, (str, Path)) and not (loss or metric):
        floor = _own_floor(Path(given))
    columns = columns_of(records)
    if not columns:
        raise InputError("records", str(given)[:80], "hold no numbers")
    name = metric if metric is not None else loss
    name = _guess(columns) if name is None else _known(name, columns, metric is not None)
    chosen = {name: columns[name]} if name else {}
    chosen |= {n: columns[n] for n in _BESIDE if n in columns}
    higher = None if metric is None else True
    known = _local_steps(columns) | dict(facts or {})
    return verdict(chosen, loss=name, floor=floor, higher_is_better=higher, facts=known)


def _own_floor(folder: Path) -> float | None:
    """The floor in the verdict of a run's `summary.json`, or None."""
    summary = files.read_json(folder / files.SUMMARY) or {}
    found = summary.get("verdict", {}).get("evidence", {}).get("floor")
    return float(found) if _is_number(found) else None


def _local_steps(columns: Mapping[str, list[float | None]]) -> dict[str, float]:
    """Local steps a client and round, where the records tell."""
    pairs = zip(columns.get("client_steps", ()), columns.get("cohort_present", ()), strict=False)
    each = [steps / present for steps, present in pairs if steps and present]
    return {"local_steps": sum(each) / len(each)} if each else {}


def columns_of(records: Sequence[Record]) -> dict[str, list[float | None]]:
    """Records turned into series, one value a record.

    None where a record lacks the name. NaN where the value is null and the record's
    `nonfinite` names it, unless nobody took part in that round.
    """
    names = dict.fromkeys(n for r in records for n, v in r.items() if _is_number(v))
    names |= dict.fromkeys(str(n) for r in records for n in r.get("nonfinite", ()))
    return {name: [_value(r, name) for r in records] for name in names}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _value(record: Record, name: str) -> float | None:
    value: Any = record.get(name)
    if _is_number(value):
        return float(value)
    bad = name in record.get("nonfinite", ()) and record.get("cohort_present", 1) != 0
    return math.nan if bad else None


def read_series(path: str | Path) -> list[Record]:
    """The records of a run's folder, of a file of JSON lines or of a CSV.

    Raises:
      InputError: where there is no such file, or it is neither.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / files.METRICS).is_file():
            raise InputError("path", str(path), f"holds no run: there is no {files.METRICS}")
        path = path / files.METRICS
    if not path.is_file():
        raise InputError("path", str(path), "there is no such file or folder")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("path", str(path), f"cannot be read as text: {error}") from error
    if not text.strip():
        raise InputError("path", str(path), "is empty")
    return _json_lines(path, text) if text.lstrip().startswith("{") else _table(path, text)


def _json_lines(path: Path, text: str) -> list[Record]:
    lines = text.split("\n")
    torn = lines.pop() if not text.endswith("\n") else ""
    records: list[Record] = []
    for i, line in enumerate([*lines, torn]):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            if line is torn:  # a run under way: its last line is being written
                continue
            raise InputError("path", str(path), f"line {i + 1} is no JSON: {error}") from error
        if not isinstance(record, dict):
            raise InputError("path", str(path), f"line {i + 1} is no JSON object")
        records.append(record)
    return records


def _table(path: Path, text: str) -> list[Record]:
    """A CSV with a header; cells that are no numbers are left out."""
    rows = [r for r in csv.reader(io.StringIO(text), delimiter=_delimiter(text)) if any(r)]
    header = [name.strip() for name in rows[0]]
    if any(_cell(name) is not None for name in header):
        raise InputError("path", str(path), "must begin with a header that names the columns")
    if len(rows) < 2:
        raise InputError("path", str(path), f"has a header and no rows ({', '.join(header)})")
    records: list[Record] = []
    for i, row in enumerate(rows[1:]):
        if len(row) > len(header):
            remedy = f"row {i + 2} has {len(row)} cells and the header {len(header)}"
            raise InputError("path", str(path), remedy)
        cells = {n: _cell(c) for n, c in zip(header, row, strict=False)}
        records.append({n: v for n, v in cells.items() if v is not None})
    return records


def _delimiter(text: str) -> str:
    """The separator that the header has most of; a comma where it has none."""
    header = text.lstrip("\n").split("\n", 1)[0]
    return max(_DELIMITERS, key=header.count)


def _cell(text: str) -> float | None:
    text = text.strip()
    if text.lower() in _ABSENT:
        return None
    if text.lower() in _NOT_FINITE:
        return _NOT_FINITE[text.lower()]
    try:
        return float(text)
    except ValueError:
        return None


def _guess(columns: Mapping[str, Any]) -> str | None:
    """The column to judge: a train loss, any loss, an accuracy, or the only one there is.

    None for records of ours: `verdict()` chooses between train and test loss.
    """
    if "train_loss" in columns:
        return None
    own = [n for n in columns if not n.lower().startswith(_COUNTERS)]
    words = {n: n.lower() for n in own}
    wishes = [
        [n for n in own if "loss" in words[n] and "train" in words[n]],
        [n for n in own if words[n] in ("loss", "objective", "cost", "value")],
        [n for n in own if words[n] == "test_loss"],
        [n for n in own if "loss" in words[n]],
        [n for n in own if words[n] == "test_accuracy"],
        [n for n in own if is_accuracy(n)],
        own,
    ]
    found = next((w for w in wishes if w), [])
    if len(found) != 1 and not (found and found is not wishes[-1] and _clear(found)):
        listed = ", ".join(columns)
        raise InputError("loss", "not given", f"cannot be guessed; name one of: {listed}")
    return found[0]


def _clear(found: list[str]) -> bool:
    """Whether the first of several is plainly meant: a name that the others only extend."""
    return all(other.startswith(found[0]) for other in found[1:])


def _known(name: str, columns: Mapping[str, Any], metric: bool) -> str:
    if name not in columns:
        field = "metric" if metric else "loss"
        raise InputError(field, name, f"must be one of the columns: {', '.join(columns)}")
    return name
