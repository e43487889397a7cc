"""CIFAR-10 and CIFAR-100 in the binary version: records of label bytes and 3,072 pixels.

The Python version of these datasets is made of pickles, which can run any code; it is not read.
"""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_sim.core.checks import InputError

_PIXELS = 3 * 32 * 32


class CifarKind(NamedTuple):
    """What tells the two datasets apart.

    Attributes:
      train: names of the training files.
      test: name of the test file.
      classes: classes of each label byte, in file order.
    """

    train: tuple[str, ...]
    test: str
    classes: tuple[int, ...]


CIFAR10 = CifarKind(tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", (10,))
CIFAR100 = CifarKind(("train.bin",), "test.bin", (20, 100))


def parse_cifar(
    content: bytes, classes: tuple[int, ...], source: str = "CIFAR data"
) -> tuple[np.ndarray, np.ndarray]:
    """Decode one `.bin` file.

    Args:
      content: whole records: the label bytes, then 1,024 bytes each of red, green and blue.
      classes: number of classes of each label byte; `(10,)` or `(20, 100)`.
      source: where it came from, for messages.

    Returns:
      `(uint8 [n, 32, 32, 3], uint8 [n, len(classes)])`.

    Raises:
      InputError: a length that is no whole number of records, or a label out of range.
    """
    width = len(classes) + _PIXELS
    if not content or len(content) % width:
        remedy = f"is truncated or not CIFAR: records are {width} bytes long"
        raise InputError(source, f"{len(content)} bytes", remedy)
    records = np.frombuffer(content, np.uint8).reshape(-1, width)
    labels, pixels = records[:, : len(classes)], records[:, len(classes) :]
    for column, bound in enumerate(classes):
        if labels[:, column].max() >= bound:
            remedy = f"labels in byte {column} must lie in 0 .. {bound - 1}"
            raise InputError(source, int(labels[:, column].max()), remedy)
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels.copy()


def read_cifar(path: str | Path, kind: CifarKind) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read the archive, or a folder that holds its `.bin` files (at any depth).

    Args:
      path: `cifar-*-binary.tar.gz`, or a folder. Nothing is extracted to disk.
      kind: `CIFAR10` or `CIFAR100`.

    Returns:
      `{"train": (x, y), "test": (x, y)}` as in `parse_cifar`.

    Raises:
      InputError: a file that is missing or damaged.
    """
    path = Path(path)
    names = (*kind.train, kind.test)
    content = _from_folder(path, names) if path.is_dir() else _from_archive(path, names)
    parts = [parse_cifar(content[n], kind.classes, f"{path}: {n}") for n in names]
    x = np.concatenate([p[0] for p in parts[:-1]])
    y = np.concatenate([p[1] for p in parts[:-1]])
    return {"train": (x, y), "test": parts[-1]}


def _from_folder(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    found = {p.name: p for p in sorted(path.rglob("*.bin"))}
    _refuse_missing(path, names, set(found))
    return {name: found[name].read_bytes() for name in names}


def _from_archive(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    content: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                file = archive.extractfile(member) if member.isfile() and name in names else None
                if file is not None:
                    content[name] = file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        remedy = "must be a folder of .bin files or an undamaged tar archive"
        raise InputError(str(path), str(error), remedy) from error
    _refuse_missing(path, names, set(content))
    return content


def _refuse_missing(path: Path, names: tuple[str, ...], found: set[str]) -> None:
    missing = [n for n in names if n not in found]
    if missing:
        raise InputError(str(path), f"no {', '.join(missing)}", f"must hold {', '.join(names)}")
