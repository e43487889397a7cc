"""How many lanes a core are best on this machine, by model size: the table of `engine/plan.py`.

    python benchmarks/lanes.py

Equal clients of W1 (50 examples, B = 10, cohort 50) with dense models from 610 to 199,210
parameters; seconds a round at each number of lanes, all in turn, over one lane.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from architectures import perceptron
from machine import describe
from ours_worker import start_backend
from ragged import in_turn, program, spread
from workloads import WORKLOADS, flat

from fedjax_sim.engine.plan import Plan

RESULT = Path(__file__).resolve().parent / "results" / "lanes.json"
LANES = (1, 2, 5, 12, 25)
WIDTHS = (
    (60, 10),
    (60, 30, 10),
    (60, 100, 20, 10),
    (60, 100, 100, 10),
    (784, 64, 10),
    (784, 200, 200, 10),
)


def measured(widths: tuple[int, ...], devices: int, pairs: int) -> dict[str, Any]:
    """One model's row."""
    base = dataclasses.replace(WORKLOADS["W1-lin"], layers=perceptron(*widths), inputs=widths[:1])
    rounds = max(1, min(50, 1_000_000 // base.parameters))
    workload, host = base, flat(base)
    runs = in_turn(
        {n: program(workload, host, Plan(n, devices), rounds=rounds) for n in LANES}, pairs
    )
    one = [seconds for seconds, _ in runs[1]]
    over = {
        n: spread([s / o for (s, _), o in zip(turns, one, strict=True)])
        for n, turns in runs.items()
    }
    best = min(over, key=lambda n: over[n]["median"])
    figures = "  ".join(f"{n}: {v['median']:.2f}" for n, v in over.items())
    print(
        f"{base.parameters:8} parameters  best {best:3} lanes   over one lane {figures}", flush=True
    )
    return {
        "parameters": base.parameters,
        "widths": widths,
        "best": best,
        "seconds_at_one_lane": min(one) / rounds,
        "over_one_lane": over,
    }


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    start_backend(options.platform)
    devices = len(jax.devices())
    rows = [measured(widths, devices, options.pairs) for widths in WIDTHS]
    record = {"machine": describe(), "command": "python benchmarks/lanes.py", "rows": rows}
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
