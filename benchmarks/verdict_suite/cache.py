"""Made runs on disk, as JSON lines; a family's file is named by the suite's own sources."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

from verdict_suite.suite import LabelledRun

HERE = Path(__file__).resolve().parent
DEFAULT = HERE.parent / ".cache"


def path_of(folder: Path, family: str, quick: bool) -> Path:
    """Where a family's runs lie; other sources of the suite give another name."""
    digest = hashlib.sha256()
    for source in sorted(HERE.glob("*.py")):
        digest.update(source.read_bytes())
    return folder / f"{family}-{'quick' if quick else 'whole'}-{digest.hexdigest()[:12]}.jsonl"


def write(path: Path, runs: list[LabelledRun]) -> None:
    """Whole or not at all; git ignores the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / ".gitignore").write_text("*\n")
    scratch = path.with_suffix(".part")
    with scratch.open("w") as file:
        for run in runs:
            file.write(json.dumps(dataclasses.asdict(run), allow_nan=False) + "\n")
    os.replace(scratch, path)


def read(path: Path) -> list[LabelledRun]:
    """The runs of one file."""
    return [LabelledRun(**json.loads(line)) for line in path.read_text().splitlines()]
