"""Manifests: a SHA-256 of every file of a folder, and of the manifest itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.files import sha256, sync

MANIFEST = "manifest.json"
SEAL = "manifest.sha256"
_REMEDY = "delete this checkpoint folder to go on from the one before"


def _names(folder: Path) -> list[str]:
    """Every entry below a folder, empty folders included, that is not manifest or seal."""
    entries = (p for p in folder.rglob("*") if not p.is_dir() or not any(p.iterdir()))
    names = {p.relative_to(folder).as_posix() for p in entries}
    return sorted(names - {MANIFEST, SEAL})


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of a folder last, then its seal, all durable.

    Args:
      folder: complete, and not yet known to any reader.
      facts: JSON-ready, kept beside the files' hashes and returned by `verify`.
    """
    for path in [*folder.rglob("*"), folder]:
        sync(path)
    files = {name: sha256(folder / name) for name in _names(folder) if (folder / name).is_file()}
    text = json.dumps({"facts": facts, "files": files}, indent=1, allow_nan=False) + "\n"
    for name, content in ((MANIFEST, text), (SEAL, hashlib.sha256(text.encode()).hexdigest())):
        (folder / name).write_text(content, encoding="ascii")
        sync(folder / name)
    sync(folder)


def verify(folder: Path) -> dict[str, Any]:
    """Check every byte of a sealed folder and return its facts.

    Raises:
      InputError: naming the first file that is missing, extra or altered.
    """
    for name in (MANIFEST, SEAL):
        if not (folder / name).is_file():
            raise _damaged(folder, name, "is missing")
    raw = (folder / MANIFEST).read_bytes()
    if (folder / SEAL).read_bytes() != hashlib.sha256(raw).hexdigest().encode():
        raise _damaged(folder, f"{MANIFEST} or {SEAL}", "was altered")
    content = json.loads(raw)
    files, present = content["files"], set(_names(folder))
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise _damaged(folder, name, "is missing")
        if sha256(folder / name) != digest:
            raise _damaged(folder, name, "was altered")
    for name in sorted(present - files.keys()):
        raise _damaged(folder, name, "does not belong there")
    return content["facts"]


def _damaged(folder: Path, name: str, what: str) -> InputError:
    return InputError("checkpoint", str(folder), f"its file {name} {what}; {_REMEDY}")
