"""How does cost grow with cohort, population, lanes, devices and model size?

    python benchmarks/scaling.py [--study cohort --study memory ...] [--platform cpu|gpu]

Every point is a fresh process (`scaling_point.py`): seconds a round, client steps a second, and
peak resident memory. Two studies are bars and decide the exit code: `memory` (peak memory does
not depend on the cohort) and `million` (a million clients). Writes `results/scaling.json`, only
the points that were measured, and `results/scaling.png`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import records
from machine import clean_environment, describe
from scaling_chart import draw

HERE = Path(__file__).resolve().parent
RECORD = records.RESULTS / "scaling.json"
KEY = ("study", "line", "x", "platform")

Point = dict[str, Any]


def _along(name: str, values: tuple[int, ...], **fixed: Any) -> list[Point]:
    """Points that differ in one field of the request."""
    return [{"x": v, "request": {name: v, **fixed}} for v in values]


STUDIES: dict[str, list[Point]] = {
    "cohort": _along("cohort", (10, 50, 200, 1000), workload="W1-mlp"),
    "population": _along("clients", (2_000, 20_000, 200_000), workload="W5", cohort=1000),
    "lanes": [
        {"line": name, **point}
        for name, most in (("W1-lin", 25), ("W1-mlp", 16))
        for point in _along("lanes", (1, 2, 4, 8, 16, 25), workload=name)
        if point["x"] <= most
    ],
    "devices": [
        {"line": name, **point}
        for name in ("W1-lin", "W1-mlp")
        for point in _along("devices", (1, 2), workload=name)
    ],
    "model": [
        {"x": width, "request": {"workload": "W1-mlp", "widths": [784, width, width, 10]}}
        for width in (25, 50, 100, 200, 400, 800)
    ],
    "memory": _along("cohort", (50, 5000), workload="W1-mlp", clients=10_000),
    "million": [{"x": 1_000_000, "request": {"workload": "W5"}}],
}


def measure(study: str, point: Point, platform: str) -> dict[str, Any]:
    """One point's row."""
    request = point["request"] | {"platform": platform}
    done = subprocess.run(
        [sys.executable, str(HERE / "scaling_point.py"), json.dumps(request)],
        env=clean_environment(PYTHONPATH=f"{HERE.parent}:{HERE}"),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer = next(line for line in done.stdout.splitlines() if line.startswith("@"))
    named = {"study": study, "line": point.get("line", request["workload"]), "x": point["x"]}
    about = {"platform": platform, "request": request, "machine": describe()}
    return named | json.loads(answer[1:]) | about


def bars(rows: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """`(what, figure, most it may be)` for the rows of the studies that are bars."""
    found: list[tuple[str, float, float]] = []
    peaks = [row["peak_bytes"] for row in rows if row["study"] == "memory"]
    if len(peaks) > 1:
        growth = max(peaks) / min(peaks) - 1
        found.append(("cohort 50 to 5,000: peak memory grows by", growth, 0.10))
    for row in rows:
        if row["study"] == "million":
            found += [
                ("a million clients: set-up, s", row["setup_seconds"], 60.0),
                ("a million clients: a round of 10,000, s", row["round_seconds"], 0.2),
                ("a million clients: peak memory, GB", row["peak_bytes"] / 1e9, 5.0),
            ]
    return found


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    plan = row["plan"]
    return (
        f"{row['study']:10} {row['line']:7} {row['x']:>9,}  {plan['devices']} x {plan['lanes']:<3} "
        f"set-up {row['setup_seconds']:6.2f} s  round {1e3 * row['round_seconds']:9.2f} ms  "
        f"{row['steps_per_second']:10,.0f} steps/s  peak {row['peak_bytes'] / 1e9:5.2f} GB "
        f"(examples {row['data_bytes'] / 1e9:.2f})"
    )


def main() -> int:
    """Measure the studies that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--study", action="append", choices=[*STUDIES])
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for study in options.study or STUDIES:
        for point in STUDIES[study]:
            rows.append(measure(study, point, options.platform))
            print(line(rows[-1]), flush=True)
            draw(records.merge(options.out, rows, KEY), options.out)
    found = bars(rows)
    for what, figure, most in found:
        verdict = "ok" if figure < most else "MISSED"
        print(f"{what} {figure:.3g}, must be under {most:g}: {verdict}")
    return 0 if all(figure < most for _, figure, most in found) else 1


if __name__ == "__main__":
    sys.exit(main())
