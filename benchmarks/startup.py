"""How long until the first round of the digits default is finished, cold and warm?

    python benchmarks/startup.py [--repeats 5]

Each measurement is a process of its own, `fedjax-sim run --out DIR`, timed from its start until
the first record lies in `DIR/metrics.jsonl` (rounds come in chunks of ten, so ten are finished
then). Cold: an empty compilation cache; warm: the cache that the run before left. Cold and
warm alternate. The package and what it needs have their `.pyc` files: one unmeasured run
before makes them. Phases come from runs of `startup_phases.py`, in the same order.

Writes medians, with every single value beside them, to `benchmarks/results/startup.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import records

HERE = Path(__file__).resolve().parent
COMMAND = "import sys; from fedjax_sim.cli.main import main; sys.exit(main(sys.argv[1:]))"
SHORT = {
    "help": ["--help"],
    "run_help": ["run", "--help"],
    "list_algorithms": ["list", "algorithms"],
    "bad_input": ["run", "--client.learning_rate", "fast"],
}
BARS_S = {"cold": 8.0, "warm": 4.0, "help": 0.5}
POLL_S = 0.002


def environment(cache: Path) -> dict[str, str]:
    """This process's environment with a compilation cache of our own."""
    kept = {k: v for k, v in machine.clean_environment().items() if not k.startswith("JAX_")}
    return kept | {"FEDJAX_SIM_CACHE": str(cache)}


def until_first_record(out: Path, cache: Path) -> tuple[float, float]:
    """Seconds from the process's start to its first record, and to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "run", "--out", str(out)],
        env=environment(cache),
        stdout=subprocess.DEVNULL,
    )
    path, first = out / "metrics.jsonl", float("nan")
    while process.poll() is None:
        if first != first and path.exists() and path.stat().st_size:
            first = time.perf_counter() - start
        time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"the run failed with exit code {process.returncode}")
    return first, time.perf_counter() - start


def phases(out: Path, cache: Path) -> dict[str, float]:
    """Seconds of each phase of one run."""
    command = [sys.executable, str(HERE / "startup_phases.py"), "--out", str(out)]
    done = subprocess.run(
        command, env=environment(cache), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def short(arguments: list[str]) -> float:
    """Seconds of a command that trains nothing."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", COMMAND, *arguments], env=environment(Path(os.devnull)),
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)  # fmt: skip
    return time.perf_counter() - start


def measure(repeats: int, work: Path) -> dict[str, list[Any]]:
    """All values, cold and warm in turn."""
    found: dict[str, list[Any]] = {}
    cache = work / "cache"
    until_first_record(work / "unmeasured", cache)
    for i in range(repeats):
        for kind, run in (("first_record", until_first_record), ("phases", phases)):
            shutil.rmtree(cache, ignore_errors=True)
            for state in ("cold", "warm"):
                value = run(work / f"{kind}-{state}-{i}", cache)
                if kind == "phases":
                    found.setdefault(f"{state}_phases", []).append(value)
                    continue
                found.setdefault(state, []).append(value[0])
                found.setdefault(f"{state}_whole_run", []).append(value[1])
        for name, arguments in SHORT.items():
            found.setdefault(name, []).append(short(arguments))
    return found


def summary(values: list[Any]) -> dict[str, Any]:
    """Median and all values, in seconds."""
    if isinstance(values[0], dict):
        return {n: round(statistics.median(v[n] for v in values), 3) for n in values[0]}
    return {"median": round(statistics.median(values), 3), "all": [round(v, 3) for v in values]}


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        found = measure(repeats, Path(folder))
    seconds = {name: summary(values) for name, values in found.items()}
    row = {"what": "digits default, seconds", "seconds": seconds, "bars": BARS_S}
    records.merge(records.RESULTS / "startup.json", [row | machine.describe()], ("what",))
    for name, value in seconds.items():
        bar = f"   (bar {BARS_S[name]:g} s)" if name in BARS_S else ""
        print(f"{name:18} {value.get('median', value)}{bar}")


if __name__ == "__main__":
    main()
