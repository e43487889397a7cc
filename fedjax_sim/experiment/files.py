"""Writing that survives a power cut: whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from fedjax_sim.core.checks import InputError

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
FINAL = "final"
GROUP = "group_"
CURVES = "curves.png"
DRIFT = "drift.png"
TIMELINE = "timeline.png"
CHECKPOINTS = "checkpoints"
ROWS = "client_rows.bin"
SWEEP = "sweep.toml"


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    raw = content.encode() if isinstance(content, str) else content
    new = path.with_name(f".tmp-{path.name}")
    new.write_bytes(raw)
    sync(new)
    os.replace(new, path)
    sync(path.parent)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file such as `summary.json`, or None where there is no file.

    Raises:
      InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(path.name, str(path), f"is damaged: {error}") from error
    if not isinstance(found, dict):
        raise InputError(path.name, str(path), "is damaged: it is no JSON object")
    return found


def check_free(out: Path) -> None:
    """Refuse a folder that holds a run, or that cannot be written; writes nothing."""
    if out.exists() and not out.is_dir():
        raise InputError("out", str(out), "must be a folder, and is a file")
    for name in (CONFIG, METRICS, SWEEP):
        if (out / name).exists():
            what = "sweep" if name == SWEEP else "run"
            remedy = f"holds a {what} already ({name}); go on with resume, or name another folder"
            raise InputError("out", str(out), remedy)
    check_writable(out)


def check_used(out: Path) -> None:
    """Refuse a folder without a run to resume, or that cannot be written."""
    if not (out / CONFIG).is_file():
        raise InputError("out", str(out), f"holds no run to resume: there is no {CONFIG}")
    check_writable(out)


def check_writable(out: Path) -> None:
    """Refuse a folder in which nothing can be written."""
    at_hand = out
    while not at_hand.exists():
        at_hand = at_hand.parent
    if not at_hand.is_dir() or not os.access(at_hand, os.W_OK | os.X_OK):
        raise InputError("out", str(out), f"cannot be written: no right to write in {at_hand}")


def make_folder(out: Path) -> None:
    """Make the folder and its parents."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("out", str(out), f"cannot be made: {error.strerror}") from error
