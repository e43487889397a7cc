"""Who is faster on the same work? Ours against rivals, in turn A B A B within one run.

    python benchmarks/compare.py --workload W1-cnn --rivals pfl,fedjax,flower,flgo

Each rival runs its own machinery in a virtual environment of its own, built when it is missing.
Both sides first run the same number of rounds from the same weights, and their losses must agree
(`timing.LOSS_TOLERANCE`); then blocks of a few seconds alternate. Prints a table, writes
`results/compare.json` (only the rows that were measured) and `results/compare.png`. Exits with 1
when losses differ; such a row is printed and not recorded.

Memory is the sum over a simulator's processes of each one's peak. GFLOP/s are those of the
minimal program, as a fraction of the best NumPy float32 product before or after.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import charts
import peak
import records
import tables
from contenders import ENVIRONMENTS, RIVALS, versions_in
from driver import OurWorker, RivalWorker, Worker
from machine import describe
from timing import (
    LOSS_TOLERANCE,
    Simulator,
    block_rounds,
    interleave,
    ratios,
    same_loss,
    warm_up,
)
from workloads import WORKLOADS, data_source

KEY = ("workload", "rival", "rounds_a_dispatch", "platform")
CHUNKS = {"W1-lin": (100, 1)}
"""Rounds a dispatch of ours, where more than one is of interest."""
CHUNK = 10


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workload", action="append", choices=sorted(WORKLOADS))
    parser.add_argument("--rivals", default="pfl,fedjax,flower,flgo", help=", ".join(RIVALS))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a block, about")
    parser.add_argument("--lanes", help="lanes a device; the plan chooses otherwise")
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--out", type=Path, default=records.RESULTS / "compare.json")
    options = parser.parse_args()
    options.workload = options.workload or ["W1-lin", "W1-mlp", "W1-cnn"]
    options.rivals = options.rivals.split(",")
    for name in options.rivals:
        if name not in RIVALS:
            parser.error(f"no rival {name!r}: {', '.join(RIVALS)}")
    return options


def compare(name: str, rival: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One workload against one rival; a row for each of our ways to dispatch."""
    chunks = CHUNKS.get(name, (CHUNK,))
    lanes = ["--lanes", options.lanes] if options.lanes else []
    before = peak.measure()
    workers: dict[str, Worker] = {}
    try:
        for chunk in chunks:
            extra = ["--chunk", str(chunk), *lanes]
            workers[f"ours {chunk}"] = OurWorker(name, *extra, platform=options.platform)
        workers["rival"] = RivalWorker(RIVALS[rival], name, options.environments, options.platform)
        found = measure(name, workers, dict(zip(workers, (*chunks, 1), strict=True)), options)
    finally:
        for worker in workers.values():
            worker.stop()
    after = peak.measure()
    common = {
        "workload": name,
        "data": data_source(WORKLOADS[name]),
        "rival": rival,
        "label": RIVALS[rival].label,
        "platform": options.platform,
        "gemm_peak_gflops": max(before["gflops"], after["gflops"]),
        "gemm_peaks_gflops": [before["gflops"], after["gflops"]],
        "gemm_kernel": after["kernel"],
        "compared_at_round": WORKLOADS[name].rounds,
        "loss_tolerance": LOSS_TOLERANCE,
        "machine": describe(),
        "rival_versions": versions_in(RIVALS[rival], options.environments),
    }
    theirs = {f"rival_{k}": v for k, v in found.pop("rival").items()}
    rows = [
        common | {"rounds_a_dispatch": chunk} | prefixed(found[f"ours {chunk}"]) | theirs
        for chunk in chunks
    ]
    return [finished(row) for row in rows]


def measure(
    name: str, workers: dict[str, Worker], chunks: dict[str, int], options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Warm up, choose the blocks, time them in turn; figures by side."""
    workload = WORKLOADS[name]
    sides: dict[str, Simulator] = {**workers}
    warm = {side: warm_up(worker, workload.rounds) for side, worker in sides.items()}
    rounds = {s: block_rounds(sides[s], options.seconds, chunks[s]) for s in sides}
    timed = interleave(sides, rounds, options.pairs)
    return {
        side: warm[side]
        | {
            "seconds": statistics.median(timed[side]),
            "seconds_each": timed[side],
            "block_rounds": rounds[side],
            "steps_per_second": workload.steps / statistics.median(timed[side]),
            "gflops": workload.gigaflop / statistics.median(timed[side]),
            "peak_bytes": worker.peak_bytes(),
            "ready_seconds": worker.ready_seconds,
            "settings": worker.settings,
        }
        for side, worker in workers.items()
    }


def prefixed(figures: dict[str, Any]) -> dict[str, Any]:
    """Our side's figures under their names in a row."""
    return {f"ours_{k}": v for k, v in figures.items()}


def finished(row: dict[str, Any]) -> dict[str, Any]:
    """A row with what follows from both sides."""
    warm = ("initial_loss", "loss")
    losses = [{k: row[f"{side}_{k}"] for k in warm} for side in ("ours", "rival")]
    return (
        row
        | ratios(row["ours_seconds_each"], row["rival_seconds_each"])
        | {f"{s}_of_peak": row[f"{s}_gflops"] / row["gemm_peak_gflops"] for s in ("ours", "rival")}
        | {"same_loss": same_loss(*losses)}
    )


def main() -> int:
    """Run the comparisons that the command line names."""
    options, good = arguments(), True
    for name in options.workload:
        for rival in options.rivals:
            rows = compare(name, rival, options)
            print(tables.markdown(rows))
            print("\n".join(tables.losses(row) for row in rows), flush=True)
            same = [row for row in rows if row["same_loss"]]
            good &= len(same) == len(rows)
            if same:
                charts.comparison(records.merge(options.out, same, KEY), options.out)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
