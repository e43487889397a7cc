"""Find a data file: the user's folder, then the cache, then the network.

1. `$FEDJAX_SIM_DATA/<folder>/<file>`: the user's own copy. It is parsed strictly but its
   checksum is not asked for: another packing or order of the examples is the user's choice.
2. The cache: `$FEDJAX_SIM_CACHE`, else `$XDG_CACHE_HOME/fedjax_sim`, else
   `~/.cache/fedjax_sim`.
3. The mirrors, one after the other, into the cache: a `.part` file that a later call goes on
   with, a checksum, then one atomic rename.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_sim.core.checks import InputError

Progress = Callable[[str, int, int | None], None]
_BLOCK = 1 << 16


class Source(NamedTuple):
    """One file of a dataset.

    Attributes:
      folder: folder in the data directory and in the cache.
      name: file name there.
      mirrors: URLs that offer this file, best first.
      checksum: `md5:HEX` or `sha256:HEX` of the official file.
    """

    folder: str
    name: str
    mirrors: tuple[str, ...]
    checksum: str


class _BadDownload(Exception):
    """A mirror answered with something other than the file."""


def show_progress(name: str, done: int, total: int | None) -> None:
    """Write one line to standard error where a person is watching; the default progress."""
    if sys.stderr.isatty():
        share = f"{100 * done / total:5.1f} %" if total else f"{done / 1e6:8.1f} MB"
        end = "\n" if total and done >= total else ""
        sys.stderr.write(f"\rdownloading {name} {share}{end}")
        sys.stderr.flush()


def user_file(folder: str, name: str) -> Path | None:
    """The user's own copy under `$FEDJAX_SIM_DATA`, a file or a folder, or None."""
    root = os.environ.get("FEDJAX_SIM_DATA")
    path = Path(root).expanduser() / folder / name if root else None
    return path if path is not None and path.exists() else None


def cache_folder() -> Path:
    """Where downloads are kept; see the module's text. It need not exist yet."""
    own = os.environ.get("FEDJAX_SIM_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "fedjax_sim"


def locate(
    source: Source, *, progress: Progress | None = show_progress, timeout_s: float = 30.0
) -> Path:
    """Path of a file that is there, downloaded first where it must be.

    Args:
      source: which file.
      progress: called as `(name, bytes so far, bytes in all or None)`; None is silent.
      timeout_s: how long a mirror may stay silent, in seconds.

    Returns:
      A path. A cached file was verified when it was downloaded.

    Raises:
      InputError: no mirror gave the file; the message names each with its fault, and where to
        put the file by hand.
    """
    own = user_file(source.folder, source.name)
    if own is not None:
        return own
    target = cache_folder() / source.folder / source.name
    if target.exists():
        return target
    faults = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for url in source.mirrors:
            try:
                return _download(url, source, target, progress, timeout_s)
            except (urllib.error.URLError, http.client.HTTPException, _BadDownload) as error:
                faults.append(f"{url} ({error})")
            except (TimeoutError, ConnectionError) as error:
                faults.append(f"{url} ({error})")
    except OSError as error:
        faults.append(f"cannot write into {target.parent} ({error})")
    raise InputError(
        f"data file {source.folder}/{source.name}", "missing", _by_hand(source, faults)
    )


def _by_hand(source: Source, faults: list[str]) -> str:
    root = os.environ.get("FEDJAX_SIM_DATA")
    place = str(Path(root or "DIR") / source.folder / source.name)
    first = "" if root else "set FEDJAX_SIM_DATA to a folder DIR and "
    tried = "; ".join(faults) or "no mirror is known"
    return f"could not be downloaded: {tried}. To use it offline, {first}put the file at {place}"


def _download(
    url: str, source: Source, target: Path, progress: Progress | None, timeout_s: float
) -> Path:
    """One mirror, going on where a `.part` file ends."""
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    try:
        _fetch(url, part, have, source.name, progress, timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not have:
            raise
        if _digest(part, source.checksum) != source.checksum:  # nothing is left to resume
            part.unlink()
            _fetch(url, part, 0, source.name, progress, timeout_s)
    found = _digest(part, source.checksum)
    if found != source.checksum:
        part.unlink()
        raise _BadDownload(f"checksum is {found}, must be {source.checksum}")
    os.replace(part, target)
    return target


def _fetch(
    url: str, part: Path, have: int, name: str, progress: Progress | None, timeout_s: float
) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "fedjax-sim"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        if answer.status != 206:
            have = 0  # the mirror does not resume: from the beginning
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise _BadDownload("resumed at another place than asked for")
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        with part.open("ab" if have else "wb") as file:
            have = _copy(answer, file, have, lambda n: progress and progress(name, n, total))
    if total is not None and have != total:
        raise _BadDownload(f"ended after {have} of {total} bytes; call again to go on")


def _copy(answer: Any, file: Any, done: int, tell: Callable[[int], Any]) -> int:
    while block := answer.read(_BLOCK):
        file.write(block)
        done += len(block)
        tell(done)
    return done


def _digest(path: Path, like: str) -> str:
    """Checksum of a file, by the algorithm that `like` names."""
    algorithm = like.partition(":")[0]
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"{algorithm}:{digest.hexdigest()}"
