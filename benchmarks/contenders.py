"""Whom we are compared with: how each is installed, started, and best set up on this work."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE / ".venv-rivals"


@dataclasses.dataclass(frozen=True)
class Rival:
    """Another simulator.

    Attributes:
      label: its name in tables and pictures.
      script: its worker in `benchmarks/rivals/`.
      packages: arguments of one `pip install` each, in this order.
      distributions: whose versions a record names.
      options: of the worker.
      special: options for some workloads in place of `options`, where others were faster.
      folder: the worker needs an empty folder.
      environment: name of the virtual environment, when it is shared.
    """

    label: str
    script: str
    packages: tuple[tuple[str, ...], ...]
    distributions: tuple[str, ...]
    options: tuple[str, ...] = ()
    special: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    folder: bool = False
    environment: str = ""

    def options_for(self, workload: str) -> tuple[str, ...]:
        """The worker's options on one workload."""
        return self.special.get(workload, self.options)


TORCH = ("torch==2.13.0",)
PFL = Rival(
    "pfl-research",
    "pfl_worker.py",
    (TORCH, ("pfl[pytorch]==0.6.0",)),
    ("pfl", "torch", "numpy"),
    options=("--processes", "2", "--threads", "1"),
    special={"W1-lin": ("--processes", "1", "--threads", "1")},
    environment="pfl",
)

RIVALS: dict[str, Rival] = {
    "pfl": PFL,
    # As it is started without torchrun: one process, torch on both cores.
    "pfl-threads": dataclasses.replace(
        PFL,
        label="pfl-research, one process",
        options=("--processes", "1", "--threads", "2"),
        special={},
    ),
    "fedjax": Rival(
        "FedJAX",
        "fedjax_worker.py",
        (("jax==0.4.30", "jaxlib==0.4.30", "numpy<2", "dm-haiku==0.0.12", "optax==0.2.3"),
         ("fedjax==0.0.17", "numpy<2")),
        ("fedjax", "jax", "jaxlib", "numpy"),
        options=("--backend", "jit"),
        special={"W1-cnn": ("--backend", "pmap"), "W1-cnn-B50": ("--backend", "pmap")},
        environment="fedjax",
    ),
    "flower": Rival(
        "Flower",
        "flower_worker.py",
        (TORCH, ("flwr[simulation]==1.42.0",)),
        ("flwr", "ray", "torch", "numpy"),
        options=("--workers", "2", "--threads", "1"),
        folder=True,
        environment="flower",
    ),
    "flgo": Rival(
        "FLGo",
        "flgo_worker.py",
        ((*TORCH, "torchvision==0.28.0"), ("flgo==0.4.4",)),
        ("flgo", "torch", "numpy"),
        options=("--threads", "1"),
        special={"W1-cnn": ("--threads", "2"), "W1-cnn-B50": ("--threads", "2")},
        folder=True,
        environment="flgo",
    ),
}  # fmt: skip


def python_of(rival: Rival, folder: Path = ENVIRONMENTS) -> Path:
    """The rival's own interpreter; its environment is built first where it is missing."""
    home = folder / rival.environment
    python = home / "bin" / "python"
    if not python.exists():
        print(f"building an environment for {rival.label} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        for arguments in rival.packages:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True)
    return python


def versions_in(rival: Rival, folder: Path = ENVIRONMENTS) -> dict[str, str]:
    """`{distribution: version}` as the rival's environment reports them."""
    code = (
        "import json, sys; from machine import versions; print(json.dumps(versions(*sys.argv[1:])))"
    )
    done = subprocess.run(
        [python_of(rival, folder), "-c", code, *rival.distributions],
        cwd=HERE,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)
