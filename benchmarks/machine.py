"""What a record says about where and when it was made. NumPy is not needed here."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

SLOWED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Variables that make NumPy's products run another processor's kernels; no benchmark sees them."""

OURS = ("fedjax-sim", "jax", "jaxlib", "optax", "numpy")


def describe(*packages: str) -> dict[str, Any]:
    """Processor, cores, memory, versions and date, ready for JSON.

    Args:
      *packages: distributions whose versions matter; by default those of `OURS`.
    """
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
        "python": platform.python_version(),
        "versions": versions(*(packages or OURS)),
        "date": time.strftime("%Y-%m-%d"),
    }


def versions(*packages: str) -> dict[str, str]:
    """`{distribution: version}` of those that are installed here."""
    found: dict[str, str] = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without the variables in `SLOWED`."""
    return {k: v for k, v in os.environ.items() if k not in SLOWED} | extra


def peak_resident(pid: int | str = "self") -> int:
    """Bytes of a process's resident high-water mark; 0 where it has gone or is not told."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    marks = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(marks[0]) * 1024 if marks else 0


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
