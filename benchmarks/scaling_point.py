"""One point of `scaling.py`, in a process of its own so that its peak memory is its own.

    python benchmarks/scaling_point.py '{"workload": "W1-mlp", "cohort": 500}'

Prints one JSON object. Fields of the request: `workload`; anything of `Workload` to change
(`clients`, `cohort`, `batch`); `widths` for another perceptron; `lanes`; `devices`; `platform`.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np
from architectures import perceptron
from machine import peak_resident
from ours_worker import Simulation, prepare, start_backend
from workloads import WORKLOADS, Workload, flat

BLOCKS, BLOCK_SECONDS = 5, 1.0
HOW = ("lanes", "devices", "platform")


def workload_of(request: dict[str, Any]) -> Workload:
    """The named workload with what the request changes."""
    changes = {k: v for k, v in request.items() if k not in ("workload", "widths", *HOW)}
    if widths := request.get("widths"):
        changes |= {"layers": perceptron(*widths), "inputs": (widths[0],)}
    return dataclasses.replace(WORKLOADS[request["workload"]], **changes)


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Set up, compile, time, and read the memory.

    Returns:
      `generate_seconds` to make the examples (the benchmark's own work), `setup_seconds` from
      examples to the end of the first round, compilation included, `round_seconds` after it,
      sampling included (median of blocks of about a second), and sizes.
    """
    workload = workload_of(request)
    started = time.perf_counter()
    data = flat(workload)
    generated = time.perf_counter()
    data_bytes = sum(part.nbytes for part in data)
    held = prepare(workload, lanes=request.get("lanes"), devices=request.get("devices"), data=data)
    del data
    held.advance(1)
    ready = time.perf_counter()
    each = [_block(held, rounds) for rounds in [_rounds(held)] * BLOCKS]
    median = statistics.median(each)
    return {
        "parameters": workload.parameters,
        "plan": dataclasses.asdict(held.plan),
        "generate_seconds": generated - started,
        "setup_seconds": ready - generated,
        "round_seconds": median,
        "round_seconds_each": each,
        "steps_per_second": workload.steps / median,
        "gflops": workload.gigaflop / median,
        "peak_bytes": peak_resident(),
        "data_bytes": data_bytes,
        "device_bytes": _device_bytes(),
    }


def _rounds(held: Simulation) -> int:
    held.advance(1)
    return max(1, int(np.ceil(BLOCK_SECONDS / _block(held, 1))))


def _block(held: Simulation, rounds: int) -> float:
    started = time.perf_counter()
    held.advance(rounds)
    return (time.perf_counter() - started) / rounds


def _device_bytes() -> int:
    """Peak memory of an accelerator; 0 on a CPU, whose memory is the process's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("peak_bytes_in_use", 0))


def main() -> None:
    """Measure what the command line asks for."""
    request = json.loads(sys.argv[1])
    start_backend(request.get("platform", "cpu"))
    print("@" + json.dumps(measure(request)), flush=True)


if __name__ == "__main__":
    main()
