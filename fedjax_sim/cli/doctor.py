"""`fedjax-sim doctor`: what works here, in one screen."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PACKAGES = (
    *("fedjax-sim", "jax", "jaxlib", "optax", "flax", "numpy", "scipy", "scikit-learn"),
    *("orbax-checkpoint", "safetensors", "pydantic", "rich", "matplotlib"),
)
_FOLDERS = ("mnist", "fashion_mnist", "cifar10", "cifar100", "tinyshakespeare")
GOOD, BAD = "ok", "!!"


def main(arguments: argparse.Namespace) -> int:
    """Print a line a check; 1 where runs cannot work here."""
    del arguments
    from rich.table import Table

    from fedjax_sim.cli.screen import console

    table = Table.grid(padding=(0, 2))
    worst = GOOD
    for mark, what, found in checks():
        table.add_row(f"[{'green' if mark == GOOD else 'red'}]{mark}[/]", f"[bold]{what}[/]", found)
        worst = BAD if mark == BAD else worst
    console().print(table)
    return 0 if worst == GOOD else 1


def checks() -> Iterator[tuple[str, str, str]]:
    """`(mark, what, what was found)` of every check."""
    yield GOOD, "python", f"{platform.python_version()} on {platform.platform()}"
    for name in _PACKAGES:
        yield _package(name)
    yield _devices()
    yield _compiles()
    yield _data()
    yield _cache()
    yield _writes(Path.cwd(), "run folders")


def _package(name: str) -> tuple[str, str, str]:
    try:
        return GOOD, name, importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name == "fedjax-sim":
            import fedjax_sim

            return GOOD, name, f"{fedjax_sim.__version__} (from its source tree)"
        return BAD, name, "is not installed"


def _devices() -> tuple[str, str, str]:
    from fedjax_sim.cli import backend

    try:
        backend.prepare()
        import jax

        kinds = sorted({d.device_kind for d in jax.devices()})
        found = f"{len(jax.devices())} x {', '.join(kinds)} ({jax.default_backend()})"
    except RuntimeError as error:
        return BAD, "devices", f"JAX does not start: {str(error).splitlines()[0]}"
    return GOOD, "devices", f"{found}, {os.cpu_count()} cores"


def _compiles() -> tuple[str, str, str]:
    import jax
    import jax.numpy as jnp

    try:
        start = time.perf_counter()
        total = float(jax.jit(lambda x: (x @ x).sum())(jnp.ones((64, 64))))
        seconds = time.perf_counter() - start
    except RuntimeError as error:
        return BAD, "compile", str(error).splitlines()[0]
    right = total == 64.0**3
    return GOOD if right else BAD, "compile", f"a product in {seconds:.2f} s, {total:g}"


def _data() -> tuple[str, str, str]:
    folder = os.environ.get("FEDJAX_SIM_DATA")
    if not folder:
        return GOOD, "data folder", "FEDJAX_SIM_DATA is not set; digits needs none"
    path = Path(folder)
    if not path.is_dir():
        return BAD, "data folder", f"FEDJAX_SIM_DATA = {folder}: there is no such folder"
    found = [name for name in _FOLDERS if (path / name).is_dir()]
    return GOOD, "data folder", f"{folder}: {', '.join(found) or 'no dataset that is known'}"


def _cache() -> tuple[str, str, str]:
    from fedjax_sim.experiment.cache_dir import default_cache

    folder = default_cache()
    mark, what, found = _writes(folder, "cache")
    if mark == GOOD and folder.is_dir():
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        found = f"{found}, {size / 1e6:.1f} MB"
    return mark, what, found


def _writes(folder: Path, what: str) -> tuple[str, str, str]:
    at_hand = folder
    while not at_hand.exists() and at_hand != at_hand.parent:
        at_hand = at_hand.parent
    try:
        with tempfile.TemporaryFile(dir=at_hand) as file:
            file.write(b"fedjax_sim")
    except OSError as error:
        return BAD, what, f"{folder}: cannot be written: {error.strerror}"
    return GOOD, what, f"{folder} can be written"
