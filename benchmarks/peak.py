"""The machine's GEMM peak: what a figure in GFLOP/s is a fraction of.

    python benchmarks/peak.py

Best of 20 NumPy float32 2048^3 products on all cores. Run by `measure` in a process of its
own, without the variables that make OpenBLAS pretend to be on another processor.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import clean_environment

SIDE, REPEATS = 2048, 20


def measure() -> dict[str, Any]:
    """`{"gflops": float, "kernel": str}` of a fresh process."""
    command = [sys.executable, str(Path(__file__).resolve())]
    done = subprocess.run(
        command, env=clean_environment(), check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def best_product() -> float:
    """GFLOP/s of the fastest product here."""
    a = np.ones((SIDE, SIDE), np.float32)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - started)
    return 2 * SIDE**3 / min(seconds) / 1e9


def kernel() -> str:
    """Which BLAS kernels NumPy runs, as far as threadpoolctl knows."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown"
    pools = [p for p in threadpool_info() if p.get("user_api") == "blas"]
    return ", ".join(
        f"{p['internal_api']} {p['version']} {p.get('architecture', '')} x{p['num_threads']}"
        for p in pools
    )


if __name__ == "__main__":
    print(json.dumps({"gflops": best_product(), "kernel": kernel()}))
