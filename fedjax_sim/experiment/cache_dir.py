"""XLA's compile cache on disk, so that the next run need not compile again."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

VARIABLE = "FEDJAX_SIM_CACHE"
FOLDER, LEAST = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
_JAX_LEAST_S = 1.0


def default_cache() -> Path:
    """`$FEDJAX_SIM_CACHE`, or `fedjax_sim` in the user's cache folder."""
    if own := os.environ.get(VARIABLE):
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "fedjax_sim"


def use_compile_cache(folder: str | Path | None = None) -> Path | None:
    """Keep compiled programs on disk; call it before the first compile.

    A folder that jax was told about otherwise is left as it is, and so is the least time that a
    program must have taken.

    Args:
      folder: where; default `default_cache()`.

    Returns:
      The folder in use, or None where there is none that can be written.
    """
    if set_before := jax.config.values[FOLDER]:
        return Path(set_before)
    try:
        folder = Path(folder) if folder is not None else default_cache() / "xla"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter where nobody knows a home folder
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    jax.config.update(FOLDER, str(folder))
    if jax.config.values[LEAST] == _JAX_LEAST_S:
        jax.config.update(LEAST, 0.5)
    return folder


class _Inside:
    """How many calls are inside `keeping_programs`, in all threads, and what to put back."""

    def __init__(self) -> None:
        self.lock, self.calls = threading.Lock(), 0
        self.ours: str | None = None
        self.least = _JAX_LEAST_S

    def enter(self) -> bool:
        """Whether this call is one of those."""
        with self.lock:
            if not self.calls and not self._begin():
                return False
            self.calls += 1
            return True

    def leave(self) -> None:
        with self.lock:
            self.calls -= 1
            if not self.calls:
                self._end()

    def _begin(self) -> bool:
        values = jax.config.values
        if values[FOLDER] or not values["jax_enable_compilation_cache"]:
            return False
        self.ours, self.least = None, values[LEAST]
        try:
            found = use_compile_cache()
            compilation_cache.reset_cache()  # jax holds on to a folder that it once had
        except BaseException:
            self._end()
            raise
        self.ours = None if found is None else str(found)
        return found is not None

    def _end(self) -> None:
        if self.ours is None or jax.config.values[FOLDER] == self.ours:  # else it is the user's
            jax.config.update(FOLDER, None)
        jax.config.update(LEAST, self.least)
        compilation_cache.reset_cache()


_inside = _Inside()


@contextlib.contextmanager
def keeping_programs() -> Generator[None]:
    """What is compiled inside, by any thread, is kept on disk and looked for there.

    Where jax was told of a folder of its own, or to keep nothing (`JAX_ENABLE_COMPILATION_CACHE`),
    that stands. Once the last of the calls inside has left, jax is as it was. Also a
    decorator: `@keeping_programs()`.
    """
    entered = False
    try:
        entered = _inside.enter()
        yield
    finally:
        if entered:
            _inside.leave()
