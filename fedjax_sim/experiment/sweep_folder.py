"""The folder of a sweep: what is in it, in what order it is written, how it is read back.

sweep.toml    everything resolved, enough to run it again
runs.jsonl    one line a finished run, appended durably
curves/       one .npz a wave of runs while the sweep goes on
curves.npz    all of them, when it has ended
table.csv     one row a run       summary.csv   one row a setting
sweep.png     summary.json        written last: it marks the sweep as finished
"""

from __future__ import annotations

import csv
import io
import json
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import files
from fedjax_sim.experiment.sweep_records import Curves

RUNS, CURVES, PARTS = "runs.jsonl", "curves.npz", "curves"
TABLE, SETTINGS, PICTURE = "table.csv", "summary.csv", "sweep.png"
_RUN = "run"


class SweepFolder:
    """One sweep's folder, made anew or gone on with.

    Attributes:
      out: the folder.
      found: what its `sweep.toml` says; None where there is none yet.
    """

    def __init__(self, out: Path) -> None:
        """Check that the folder can be used; writes nothing.

        Raises:
          InputError: a file, a folder that holds a run, one that cannot be written.
        """
        self.out = out
        self.found: dict[str, Any] | None = None
        if (out / files.SWEEP).is_file():
            files.check_writable(out)
            self.found = read_sweep(out)
        else:
            files.check_free(out)

    @property
    def finished(self) -> bool:
        """Whether the sweep came to its end before."""
        return self.found is not None and (self.out / files.SUMMARY).is_file()

    def check(self, identity: str) -> None:
        """Refuse to go on with another experiment; nothing is lost."""
        if self.found is not None and self.found["sweep"]["identity"] != identity:
            remedy = (
                "holds another sweep (experiment, data, seeds or varied values differ); go on "
                "with fedjax-sim resume, or name another folder"
            )
            raise InputError("out", str(self.out), remedy)

    def begin(self, text: Callable[[], str]) -> None:
        """Make the folder, with `sweep.toml` first; one that is there stays as it is."""
        files.make_folder(self.out)
        if self.found is None:
            files.write_whole(self.out / files.SWEEP, text())
        (self.out / PARTS).mkdir(exist_ok=True)

    def done(self) -> dict[int, dict[str, Any]]:
        """Records of finished runs by their index; a torn last line is cut off.

        Raises:
          InputError: a damaged line.
        """
        path = self.out / RUNS
        raw = path.read_bytes() if path.is_file() else b""
        whole = raw.rfind(b"\n") + 1
        try:
            records = [json.loads(line) for line in raw[:whole].splitlines()]
            found = {record[_RUN]: record for record in records}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(RUNS, str(path), f"holds a damaged line: {error}") from error
        if whole < len(raw):
            os.truncate(path, whole)
        return found

    def append(self, records: Sequence[Mapping[str, Any]], curves: Curves) -> None:
        """Add a wave of runs, durably: their curves first, so that a record implies them."""
        runs = np.array([record[_RUN] for record in records])
        parts = self.out / PARTS
        taken = [int(p.stem) for p in parts.glob("*.npz") if p.stem.isdecimal()]
        number = 1 + max(taken, default=0)
        files.write_whole(parts / f"{number:06d}.npz", _packed({_RUN: runs} | curves))
        raw = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        with (self.out / RUNS).open("ab") as file:
            file.write(raw.encode())
            file.flush()
            os.fsync(file.fileno())

    def curves(self, n_runs: int) -> Curves:
        """`{name: [runs, R]}` of all runs, NaN where nothing is known."""
        whole = self.out / CURVES
        if whole.is_file():
            return {n: v for n, v in _unpacked(whole).items() if n != _RUN}
        parts = [_unpacked(p) for p in sorted((self.out / PARTS).glob("*.npz"))]
        return merged(parts, n_runs)

    def finish(
        self,
        records: Sequence[Mapping[str, Any]],
        rows: Sequence[Mapping[str, Any]],
        curves: Curves,
        picture: Any,
        summary: Mapping[str, Any],
    ) -> None:
        """Write what a finished sweep leaves; `summary.json` last."""
        runs = np.array([record[_RUN] for record in records])
        files.write_whole(self.out / CURVES, _packed({_RUN: runs} | curves))
        files.write_whole(self.out / TABLE, _csv(records))
        files.write_whole(self.out / SETTINGS, _csv(rows))
        picture.savefig(self.out / PICTURE, dpi=150)
        text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
        files.write_whole(self.out / files.SUMMARY, text)
        for part in sorted((self.out / PARTS).glob("*.npz")):
            part.unlink()
        if not any((self.out / PARTS).iterdir()):
            (self.out / PARTS).rmdir()


def read_sweep(out: Path) -> dict[str, Any]:
    """The table of a folder's `sweep.toml`.

    Raises:
      InputError: there is none, or it is damaged.
    """
    path = out / files.SWEEP
    if not path.is_file():
        raise InputError("out", str(out), f"holds no sweep: there is no {files.SWEEP}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        if not isinstance(table["sweep"]["identity"], str):
            raise KeyError("identity")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(files.SWEEP, str(path), f"is damaged: {error}") from error
    return table


def merged(parts: Sequence[Curves], n_runs: int) -> Curves:
    """Curves of waves put in the order of the runs; a later wave has the last word."""
    shapes = [(n, v.shape[1]) for part in parts for n, v in part.items() if n != _RUN]
    rounds = max((r for _, r in shapes), default=0)
    whole = {name: np.full((n_runs, rounds), np.nan) for name in dict(shapes)}
    for part in parts:
        for name, values in part.items():
            if name != _RUN:
                whole[name][part[_RUN], : values.shape[1]] = values
    return whole


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    raw = io.BytesIO()
    given: dict[str, Any] = dict(arrays)
    np.savez(raw, **given)
    return raw.getvalue()


def _unpacked(path: Path) -> Curves:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise InputError(CURVES, str(path), f"is damaged: {error}") from error


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Comma-separated, a head first; nothing where a value is not known."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({n: _cell(v) for n, v in row.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict, bool)) else value
