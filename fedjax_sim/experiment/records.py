"""Records: one JSON object a round, appended a chunk at a time.

A chunk is with the operating system when it is appended, so that readers see it and a killed
process loses nothing. It is on the disk (`RecordFile.sync`) before a checkpoint counts it: a
machine that loses power goes on from its last checkpoint anyway.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_sim.core.checks import InputError

Record = dict[str, Any]

# Scalars of a round that are not recorded under their own names.
_TOTALS = ("lane_steps", "lane_steps_bound")
EACH = {"uplink_bytes": "uplink_bytes_each", "downlink_bytes": "downlink_bytes_each"}
HIDDEN = {*_TOTALS, *EACH.values(), "probed", "sound", "rows_missing", "total_weight"}
_MEASURED = "_measured"
_FIRST = ("train_loss",)
_LAST = ("uplink_bytes", "downlink_bytes", "cohort_present", "client_steps")


def chunk_records(
    buffers: Mapping[str, np.ndarray],
    probes: Iterable[str],
    *,
    first_round: int,
    rounds: int,
    seconds: tuple[float, float],
) -> list[Record]:
    """Records of one dispatch.

    Args:
      buffers: `{name: [chunk]}` from the device; rows beyond `rounds` are ignored. A flag
        `X_measured` governs `X` and what starts with `X_` (`core.contracts.Watch`).
      probes: names that count only on rounds marked `probed`.
      first_round: round number (from 1) of row 0.
      rounds: rounds that ran.
      seconds: training time before and after the chunk; its rounds share it evenly.

    Returns:
      One JSON-ready object a round. `uplink_bytes` and `downlink_bytes` are of that round:
      bytes a client times `cohort_present`; of a sampler that tells `clients_chosen`, what is
      sent down goes to all of these.
    """
    probes, (before, after) = set(probes), seconds
    flags = dict.fromkeys(probes, "probed") | flags_of(buffers)
    hidden = {*probes, *HIDDEN, *_FIRST, *_LAST, *flags.values()}
    own = [n for n in buffers if n not in hidden]
    order = [n for n in (*_FIRST, *sorted(probes), *_LAST, *sorted(own))]
    out: list[Record] = []
    columns = {n: v[:rounds].tolist() for n, v in buffers.items()}
    for i in range(rounds):
        row = {n: column[i] for n, column in columns.items()}
        row |= {n: row[each] * row["cohort_present"] for n, each in EACH.items() if each in row}
        if "clients_chosen" in row and EACH["downlink_bytes"] in row:  # the late received too
            row["downlink_bytes"] = row[EACH["downlink_bytes"]] * row["clients_chosen"]
        keep = [n for n in order if n in row and (n not in flags or row[flags[n]])]
        wall = before + (after - before) * (i + 1) / rounds
        record = {"round": first_round + i, "wall_time_s": round(wall, 6)}
        out.append(_finite(record | {n: row[n] for n in keep}))
    return out


def flags_of(names: Iterable[str]) -> dict[str, str]:
    """`{name: flag}` of the values that a flag `X_measured` governs: `X` and every `X_...`.

    Of several flags the one with the longest X counts.
    """
    names = list(names)
    flags = sorted((n for n in names if n.endswith(_MEASURED)), key=len)
    found: dict[str, str] = {}
    for flag in flags:
        stem = flag.removesuffix(_MEASURED)
        mine = [n for n in names if n == stem or n.startswith(f"{stem}_")]
        found |= {n: flag for n in mine if n not in flags}
    return found


def lane_totals(buffers: Mapping[str, np.ndarray], rounds: int) -> dict[str, int]:
    """Lane steps run, and the fewest possible, summed over the chunk's rounds."""
    return {n: int(buffers[n][:rounds].sum(dtype=np.int64)) for n in _TOTALS if n in buffers}


def _finite(record: Record) -> Record:
    bad = [n for n, v in record.items() if isinstance(v, float) and not math.isfinite(v)]
    if not bad:
        return record
    return {n: None if n in bad else v for n, v in record.items()} | {"nonfinite": bad}


class RecordFile:
    """`metrics.jsonl`, opened for appending.

    Attributes:
      path: of the file.
      size: bytes written.
      digest: SHA-256 of those bytes.
    """

    def __init__(self, path: Path, *, keep: int = 0) -> None:
        """Open the file and drop everything after its first `keep` bytes."""
        self.path = path
        self.digest = hashlib.sha256(path.read_bytes()[:keep] if keep else b"")
        self._file = path.open("ab")
        self._file.truncate(keep)
        self._file.seek(0, os.SEEK_END)
        self.size = keep
        os.fsync(self._file.fileno())

    def append(self, records: Iterable[Record]) -> None:
        """Hand records to the operating system."""
        raw = "".join(json.dumps(r, allow_nan=False) + "\n" for r in records).encode()
        self._file.write(raw)
        self._file.flush()
        self.size += len(raw)
        self.digest.update(raw)

    def sync(self) -> None:
        """Wait until all that was appended is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Make the records durable and close the file."""
        if not self._file.closed:
            self.sync()
            self._file.close()


def read_records(path: Path, *, upto: int | None = None) -> list[Record]:
    """Records of a file, at most of its first `upto` bytes; a torn last line is left out.

    Raises:
      InputError: where a line is no record, or the file is shorter than `upto`.
    """
    raw = path.read_bytes() if path.exists() else b""
    if upto is not None and len(raw) < upto:
        remedy = f"has {len(raw)} bytes and needs the {upto} that the checkpoint knows"
        raise InputError("metrics.jsonl", str(path), remedy)
    lines = raw[:upto].split(b"\n")[:-1]
    try:
        records = [json.loads(line) for line in lines]
    except ValueError as error:
        raise InputError("metrics.jsonl", str(path), f"holds a damaged line: {error}") from error
    for i, record in enumerate(records):
        if not isinstance(record, dict) or record.get("round") != i + 1:
            raise InputError("metrics.jsonl", str(path), f"line {i + 1} is not of round {i + 1}")
    return records
