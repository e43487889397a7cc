"""IDX files (MNIST and its relatives), plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from fedjax_sim.core.checks import InputError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def parse_idx(content: bytes, source: str = "IDX data") -> np.ndarray:
    """Decode the bytes of one IDX file.

    The layout is big-endian: two zero bytes, a type code, the number of dimensions, each
    dimension as uint32, then the entries in C order.

    Args:
      content: the whole file, not compressed.
      source: where it came from, for messages.

    Returns:
      An array of the stated shape and type, in native byte order.

    Raises:
      InputError: wrong magic number, unknown type, truncated or overlong data.
    """
    if len(content) < 4 or content[:2] != b"\x00\x00" or content[2] not in _TYPES:
        remedy = "is no IDX file: it must start with 00 00, a type code and a rank"
        raise InputError(source, content[:4].hex(" ") or "empty", remedy)
    dtype, rank = np.dtype(_TYPES[content[2]]), content[3]
    start = 4 + 4 * rank
    if rank == 0 or len(content) < start:
        raise InputError(source, f"{rank} dimensions in {len(content)} bytes", "the header is cut")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", rank, 4))
    wanted = start + math.prod(shape) * dtype.itemsize
    if len(content) != wanted:
        trouble = "is truncated" if len(content) < wanted else "has bytes after its end"
        remedy = f"{trouble}: shape {shape} of {dtype} needs exactly {wanted} bytes"
        raise InputError(source, f"{len(content)} bytes", remedy)
    return (
        np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
    )


def read_idx(path: str | Path) -> np.ndarray:
    """Read one IDX file; gzip is recognised by its content, not by its name.

    Args:
      path: the file.

    Returns:
      The array it holds.

    Raises:
      InputError: a file that is missing, damaged or not IDX.
    """
    return parse_idx(_content(Path(path)), str(path))


def read_pair(images: str | Path, labels: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read images `[n, h, w]` with their labels `[n]`.

    Raises:
      InputError: as `read_idx`, and where ranks or lengths do not fit together.
    """
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3 or x.dtype != np.uint8:
        raise InputError(str(images), f"{x.dtype} {x.shape}", "images must be uint8 [n, h, w]")
    if y.shape != x.shape[:1] or y.dtype != np.uint8:
        remedy = f"labels must be uint8 [{len(x)}], one for each image"
        raise InputError(str(labels), f"{y.dtype} {y.shape}", remedy)
    return x, y


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(str(path), str(error), "must be a readable, undamaged file") from error
