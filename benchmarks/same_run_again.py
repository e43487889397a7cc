"""How long does the same `fs.run` take again, in the same process and in a new one?

    python benchmarks/same_run_again.py [--repeats 3]

A perceptron of 16 units on the digits, 5 rounds of 5 clients, one plan for all; two calls in each
process, and three processes in turn: one that keeps no programs, one that begins with an empty
folder of programs, one that finds what the second left. Seconds of each call.

Predicted: a call that finds its program takes what tracing takes, 3 s. Seen on two cores of an
Intel Xeon: 11.3 and 8.7 s where nothing is kept, 11.3 and 2.6, and 4.9 and 2.4 in a new process.

Writes benchmarks/results/same_run_again.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import machine
import records

RECORD = records.RESULTS / "same_run_again.json"
CALLS = """
import json, time
import optax
import fedjax_sim as fs
task = fs.tasks.classifier(fs.models.mlp(16), classes=10)
fed, seconds = fs.data.digits(), []
for _ in range(2):
    start = time.perf_counter()
    recipe = fs.algorithms.fedavg(optax.sgd(0.1))
    fs.run(recipe, task, fed, rounds=5, cohort=5, lanes=1, devices=1)
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds))
"""


def calls(cache: Path, *, keep: bool) -> list[float]:
    """Seconds of the two calls of one process."""
    kept = {k: v for k, v in machine.clean_environment().items() if not k.startswith("JAX_")}
    own = {"FEDJAX_SIM_CACHE": str(cache), "JAX_ENABLE_COMPILATION_CACHE": str(keep).lower()}
    done = subprocess.run(
        [sys.executable, "-c", CALLS], env=kept | own, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    found: dict[str, list[list[float]]] = {"nothing kept": [], "empty": [], "found": []}
    for _ in range(parser.parse_args().repeats):
        with tempfile.TemporaryDirectory() as folder:
            for name, values in found.items():
                values.append(calls(Path(folder), keep=name != "nothing kept"))
    rows = []
    for name, values in found.items():
        first, second = (round(statistics.median(v), 2) for v in zip(*values, strict=True))
        print(f"{name:14} first call {first:6.2f} s, second {second:6.2f} s", flush=True)
        rows.append({"programs": name, "first_s": first, "second_s": second, "all_s": values})
    shared = {"load": os.getloadavg()[0], "machine": machine.describe()}
    records.merge(RECORD, [row | shared for row in rows], ("programs",))


if __name__ == "__main__":
    main()
