"""The textbook effects of optimizers in federated learning, each held against real data.

    python benchmarks/optimizers.py                  # all, digits
    python benchmarks/optimizers.py --rows batches   # one effect; the record keeps the others
    python benchmarks/optimizers.py --data mnist     # 6,000 examples of $FEDJAX_SIM_DATA/mnist

A row says what theory says (`less < more`, in some unit), what five seeds gave with their
95 % intervals, and `agrees`, `disagrees` or `not shown`: whether the interval of the paired
comparison lies on the side that theory says, on the other, or holds both. Where arms are
tuned, each has equally many settings, chosen on three other seeds; the record says which and
how many. No setting was looked for until it agreed. Two things were changed after a first run
of all: grids whose best rate lay at their end were moved, for every arm of the effect alike,
and the warm-up's peak went from 1.0, where both arms were lost, to 0.7. The record is
`benchmarks/results/optimizers.json`, with a picture beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import records
from optimizer_effects import adaptive, batches, momentum, normalization, picture, schedules
from optimizer_effects.common import Bench

from fedjax_sim.engine.mesh import cores_as_devices

HERE = Path(__file__).resolve().parent
Rows = list[dict[str, Any]]
EFFECTS: dict[str, Callable[[Bench], tuple[Rows, Rows]]] = {
    "batches": batches.rows,
    "client momentum": momentum.at_the_client,
    "server momentum: exact gradients": momentum.exact,
    "server momentum: label skew": momentum.at_the_server,
    "adaptive server": adaptive.rows,
    "schedules": schedules.rows,
    "batch norm": normalization.rows,
}


def main(argv: list[str] | None = None) -> None:
    """Measure what the command line names, and record it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", action="append", choices=sorted(EFFECTS), metavar="NAME",
                        help=f"one of: {', '.join(EFFECTS)}; may be given again")  # fmt: skip
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that it runs")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "optimizers.json")
    options = parser.parse_args(argv)
    cores_as_devices()
    bench = Bench(options.data, options.quick)
    for name in options.rows or EFFECTS:
        began = time.perf_counter()
        table, courses = EFFECTS[name](bench)
        seconds = round(time.perf_counter() - began, 1)
        shared = {"panel": name, "data": bench.data, "quick": bench.quick}
        for row in table:
            _tell(row)
        new = [shared | row | {"kind": "row"} for row in table]
        drawn = {"kind": "courses", "theory": "", "unit": "", "courses": courses}
        machine_row = {"seconds": seconds, "machine": machine.describe()}
        records.merge(
            options.out, [*new, shared | drawn | machine_row], ["data", "panel", "theory", "unit"]
        )
        print(f"{name}: {seconds:.0f} s", flush=True)
    found = [r for r in records.read(options.out) if r["data"] == bench.data]
    shown = {r["panel"]: r["courses"] for r in found if r["kind"] == "courses"}
    ordered = {name: shown[name] for name in EFFECTS if name in shown}
    print(picture.draw([r for r in found if r["kind"] == "row"], ordered, options.out))


def _tell(row: dict[str, Any]) -> None:
    less, more = row["less"], row["more"]
    sign = "x" if row["compared_by"] == "ratio" else "+"
    told = row["comparison"]
    spread = "not finite" if told is None else f"{told[0]:.3g} [{told[1]:.3g}, {told[2]:.3g}]"
    print(
        f"{row['verdict']:>10}  {row['theory']}\n{'':12}{row['unit']}: "
        f"{less['arm']} {_number(less)} against {more['arm']} {_number(more)}; {sign} {spread}",
        flush=True,
    )
    if "because" in row:
        print(f"{'':12}{row['because']}")


def _number(side: dict[str, Any]) -> str:
    return "(lost)" if side["mean"] is None else f"{side['mean']:.4g}"


if __name__ == "__main__":
    main()
