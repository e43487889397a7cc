"""What does the lowering of convolutions gain, and how far is it from the machine's limit?

    python benchmarks/conv_lowering.py [--workload W1-cnn ...] [--pairs 5]

The same rounds with and without lowering, in turn A B A B, with a cohort small enough for the
stock convolutions (4 clients); then lowered rounds of the workload's own cohort beside the GEMM
peak. Record: `results/conv_lowering.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from typing import Any

import ours_worker
import peak
import records
import timing
from machine import describe
from workloads import WORKLOADS, flat

DEFAULT = ("W1-cnn", "W1-cnn-B50", "W2-E1")
SMALL_COHORT = 4


class Side:
    """A simulation as `timing` takes it."""

    def __init__(self, simulation: ours_worker.Simulation) -> None:
        """Wrap it."""
        self._simulation = simulation

    def run(self, rounds: int) -> float:
        """Run rounds; their seconds."""
        started = time.perf_counter()
        self._simulation.advance(rounds)
        return time.perf_counter() - started

    def loss(self) -> float:
        """The present model's loss."""
        return self._simulation.loss()


def against_stock(name: str, pairs: int, data: Any) -> dict[str, Any]:
    """Lowered and stock rounds of a small cohort in turn."""
    small = dataclasses.replace(WORKLOADS[name], cohort=SMALL_COHORT)
    sides = {
        "lowered": Side(ours_worker.prepare(small, chunk=1, data=data)),
        "stock": Side(ours_worker.prepare(small, chunk=1, data=data, lowering=False)),
    }
    warm = {side: timing.warm_up(one, 1) for side, one in sides.items()}
    each = timing.interleave(sides, dict.fromkeys(sides, 1), pairs)
    return {
        "small_cohort": SMALL_COHORT,
        "stock_seconds": statistics.median(each["stock"]),
        "losses": {side: found["loss"] for side, found in warm.items()},
        **timing.ratios(each["lowered"], each["stock"]),
    }


def of_peak(name: str, rounds: int, data: Any) -> dict[str, Any]:
    """Lowered rounds of the whole cohort, and the GEMM peak before and after them."""
    workload, before = WORKLOADS[name], peak.measure()
    side = Side(ours_worker.prepare(workload, chunk=1, data=data))
    side.run(1)
    each = [side.run(1) for _ in range(rounds)]
    after = peak.measure()
    limit = max(before["gflops"], after["gflops"])
    speed = workload.gigaflop / statistics.median(each)
    return {
        "seconds": statistics.median(each),
        "seconds_each": each,
        "gflops": speed,
        "gemm_peak_gflops": limit,
        "gemm_kernel": after["kernel"],
        "of_peak": speed / limit,
    }


def main() -> None:
    """Measure the workloads that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workload", action="append", choices=sorted(WORKLOADS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--skip-stock", action="store_true", help="the peak's fraction alone")
    options = parser.parse_args()
    ours_worker.start_backend()
    rows = []
    for name in options.workload or DEFAULT:
        data = flat(WORKLOADS[name])
        row = {"workload": name, "machine": describe()}
        row |= of_peak(name, options.pairs, data)
        print(f"{name}: {row['seconds']:.3f} s a round, {row['of_peak']:.1%} of the GEMM peak")
        if not options.skip_stock:
            row |= against_stock(name, options.pairs, data)
            spread = f"{row['ratio_min']:.1f} to {row['ratio_max']:.1f}"
            print(f"  stock convolutions take {row['ratio']:.1f} times as long ({spread})")
        rows.append(row)
    records.merge(records.RESULTS / "conv_lowering.json", rows, ("workload",))


if __name__ == "__main__":
    main()
