"""Result files: a list of rows, of which a new measurement replaces only its own."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a record; none where there is no file yet."""
    return json.loads(path.read_text())["rows"] if path.exists() else []


def merge(path: Path, rows: Sequence[Row], key: Sequence[str]) -> list[Row]:
    """Write `rows` over those of the same key, keep all others, and return them all.

    Args:
      path: the record; written whole to a file beside it and then renamed.
      rows: new rows; each carries its own machine, versions and date.
      key: fields that tell rows apart; a missing field counts as None.
    """

    def name(row: Row) -> tuple[Any, ...]:
        return tuple(row.get(field) for field in key)

    new = {name(row): row for row in rows}
    kept = {name(row): row for row in read(path)}
    every = [*(kept | new).values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps({"rows": every}, indent=1) + "\n")
    os.replace(scratch, path)
    return every
