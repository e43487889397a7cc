"""XLA's compile cache on disk, so that the next run need not compile again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

VARIABLE = "FEDJAX_SIM_CACHE"


def default_cache() -> Path:
    """`$FEDJAX_SIM_CACHE`, or `fedjax_sim` in the user's cache folder."""
    if own := os.environ.get(VARIABLE):
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "fedjax_sim"


def use_compile_cache(folder: str | Path | None = None) -> Path | None:
    """Keep compiled programs on disk; call it before the first compile.

    A folder that jax was told about otherwise is left as it is.

    Args:
      folder: where; default `default_cache()`.

    Returns:
      The folder in use, or None where it cannot be made.
    """
    if set_before := jax.config.values["jax_compilation_cache_dir"]:
        return Path(set_before)
    folder = Path(folder) if folder is not None else default_cache() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder


@contextlib.contextmanager
def keeping_programs() -> Generator[None]:
    """What is compiled inside, by any thread, is kept on disk and looked for there.

    Where jax was told of a folder of its own, or to keep nothing (`JAX_ENABLE_COMPILATION_CACHE`),
    that stands. Afterwards jax is as it was. Also a decorator: `@keeping_programs()`.
    """
    values = jax.config.values
    if values["jax_compilation_cache_dir"] or not values["jax_enable_compilation_cache"]:
        yield
        return
    least = values["jax_persistent_cache_min_compile_time_secs"]
    use_compile_cache()
    compilation_cache.reset_cache()  # jax looks once whether there is a folder
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
        compilation_cache.reset_cache()
