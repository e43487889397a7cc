"""XLA's compile cache on disk, so that the next process need not compile again."""

from __future__ import annotations

import os
from pathlib import Path

import jax

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
