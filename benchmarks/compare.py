"""Ours against rivals on the same work, in turn A B A B, as a ratio within one run.

    python benchmarks/compare.py --workload W1-lin --workload W1-mlp --rivals pfl

Each rival runs in a virtual environment of its own, built when it is missing. The table
gives the median seconds a round and the median of the pairwise ratios; both losses are
printed and must agree.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from workloads import WORKLOADS

HERE = Path(__file__).resolve().parent
RIVALS = {"pfl": (["torch==2.13.0", "pfl[pytorch]"], "rivals/pfl_worker.py")}


def environment(name: str, folder: Path) -> Path:
    """The rival's own python, installed first where it is missing."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        print(f"building an environment for {name} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        for package in RIVALS[name][0]:
            subprocess.run([python, "-m", "pip", "install", "-q", package], check=True)
    return python


class Worker:
    """A simulator in its own process, warm, waiting for the next block."""

    def __init__(self, command: list[str]) -> None:
        """Start it and wait until it is warm."""
        pipe = subprocess.PIPE
        env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(HERE.parent), str(HERE)]))
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)
        self.warm = self._hear()

    def block(self) -> dict[str, float]:
        """Run and time one block."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        return self._hear()

    def _hear(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise SystemExit(f"worker ended early: {self.process.args}")

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def gemm_peak() -> float:
    """GFLOP/s, best of 20 NumPy float32 2048^3 products."""
    a = np.ones((2048, 2048), np.float32)
    best = min(_seconds(lambda: a @ a) for _ in range(20))
    return 2 * 2048**3 / best / 1e9


def _seconds(f: Any) -> float:
    started = time.perf_counter()
    f()
    return time.perf_counter() - started


def compare(name: str, rival: str, python: Path, pairs: int, lanes: str) -> dict[str, Any]:
    """Interleave `pairs` blocks of both; returns a result row."""
    workload, peak = WORKLOADS[name], gemm_peak()
    ours = Worker([sys.executable, str(HERE / "ours_worker.py"), name, lanes])
    theirs = Worker([str(python), str(HERE / RIVALS[rival][1]), name])
    rows = [(ours.block(), theirs.block()) for _ in range(pairs)]
    ours.stop()
    theirs.stop()
    a, b = ([r[i]["seconds_a_round"] for r in rows] for i in (0, 1))
    return {
        "workload": name,
        "rival": rival,
        "ours_seconds": statistics.median(a),
        "rival_seconds": statistics.median(b),
        "ratio": statistics.median(y / x for x, y in zip(a, b, strict=True)),
        "ratios": [y / x for x, y in zip(a, b, strict=True)],
        "ours_steps_per_second": workload.steps / statistics.median(a),
        "ours_loss": rows[-1][0]["loss"],
        "rival_loss": rows[-1][1]["loss"],
        "ours_peak_bytes": rows[-1][0]["peak_bytes"],
        "rival_peak_bytes": rows[-1][1]["peak_bytes"],
        "gemm_peak_gflops": max(peak, gemm_peak()),
        "ours_gflops": workload.gigaflop / statistics.median(a),
    }


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    print(
        f"{row['workload']:8} ours {1e3 * row['ours_seconds']:9.3f} ms  {row['rival']} "
        f"{1e3 * row['rival_seconds']:9.3f} ms  ratio {row['ratio']:7.1f} "
        f"[{min(row['ratios']):.1f} .. {max(row['ratios']):.1f}]  loss "
        f"{row['ours_loss']:.4f} / {row['rival_loss']:.4f}  "
        f"{row['ours_gflops'] / row['gemm_peak_gflops']:.0%} of the GEMM peak",
        flush=True,
    )


def main() -> None:
    """Run the comparisons that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", action="append", choices=sorted(WORKLOADS))
    parser.add_argument("--rivals", default="pfl", help="comma-separated: " + ", ".join(RIVALS))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--lanes", default="auto", help="lanes a device, or auto")
    parser.add_argument("--environments", type=Path, default=HERE / ".venv-rivals")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "compare.json")
    options = parser.parse_args()
    rows = []
    for rival in options.rivals.split(","):
        python = environment(rival, options.environments)
        for name in options.workload or sorted(WORKLOADS):
            rows.append(compare(name, rival, python, options.pairs, options.lanes))
            show(rows[-1])
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
        "rivals": {name: RIVALS[name][0] for name in options.rivals.split(",")},
        "date": time.strftime("%Y-%m-%d"),
    }
    options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
