"""How good is the memory forecast? Each case runs for real in a process of its own.

    python benchmarks/memory.py                 # the held-out cases, written to results/memory.json
    python benchmarks/memory.py --set calibration
    python benchmarks/memory.py --case mlp

Measured is the process's peak resident memory at the end of `fs.run` (or of the command line)
less its resident memory after the imports. The calibration cases are those on which the
constants of `engine/forecast.py` were chosen; the held-out ones were not looked at before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
import numpy as np
import records

HERE = Path(__file__).resolve()
RECORD = records.RESULTS / "memory.json"
BAR, LEAST_MB = 0.25, 500

# name: model, clients, examples each, lanes, devices, cohort, batch size, optimizer, algorithm
CALIBRATION: dict[str, dict[str, Any]] = {
    "mlp-4096, 4 lanes": dict(model=("mlp", 4096, 4096), lanes=4),
    "mlp-4096, Adam": dict(model=("mlp", 4096, 4096), optimizer="adam"),
    "mlp-2048, batch 2000": dict(model=("mlp", 2048, 2048, 2048, 2048), each=2000, batch=2000),
    "mcmahan CNN, batch 200": dict(model=("cnn_mcmahan",), x=(28, 28, 1), each=400, batch=200),
    "scaffold, 2 devices": dict(
        model=("mlp", 1024, 512), clients=100, devices=2, lanes=2, algorithm="scaffold"
    ),
    "logistic, 600 MB": dict(model=("logistic",), x=(256,), clients=1000, each=600, devices=2),
}
HELD_OUT: dict[str, dict[str, Any]] = {
    "mlp-3000, momentum, 2 devices": dict(
        model=("mlp", 3000, 3000, 3000), devices=2, batch=32, each=64, optimizer="momentum"
    ),
    "W1's CNN, batch 50, 2 lanes x 2 devices": dict(
        model=("cnn_w1",), x=(32, 32, 3), each=100, batch=50, lanes=2, devices=2
    ),
    "char LSTM, batch 64, 4 lanes": dict(
        model=("lstm_chars", 90), x="text", batch=64, each=64, lanes=4
    ),
    "logistic, 512 MB of data": dict(
        model=("logistic",), x=(128,), clients=2000, each=500, batch=50
    ),
    "scaffold, 600 rows": dict(
        model=("mlp", 300, 200), clients=600, devices=2, algorithm="scaffold", cohort=20
    ),
    "command line, mlp-3000": dict(cli=("[3000, 3000, 3000]",)),
}
SETS = {"calibration": CALIBRATION, "held-out": HELD_OUT}
_TEXT = (80, 90)


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", choices=tuple(SETS), default="held-out")
    parser.add_argument("--case", help="only cases whose name has this in it")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cases = SETS[arguments.set]
    if arguments.worker:
        print(json.dumps(measure(**cases[arguments.worker])))
        return
    rows = []
    for name in cases:
        if arguments.case and arguments.case not in name:
            continue
        rows.append({"set": arguments.set, "case": name} | in_process(arguments.set, name))
        print(line(rows[-1]), flush=True)
    records.merge(RECORD, rows, ("set", "case"))


def in_process(which: str, name: str) -> dict[str, Any]:
    """One case in a fresh interpreter."""
    with tempfile.TemporaryDirectory() as cache:
        environment = machine.clean_environment(FEDJAX_SIM_CACHE=cache, JAX_PLATFORMS="cpu")
        done = subprocess.run(
            [sys.executable, str(HERE), "--set", which, "--worker", name],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    row = json.loads(done.stdout.splitlines()[-1])
    error = row["forecast_mb"] / row["measured_mb"] - 1
    return row | {"error": round(error, 3), "machine": machine.describe()}


def line(row: dict[str, Any]) -> str:
    """A row for the terminal."""
    verdict = "ok" if abs(row["error"]) <= BAR else "MISSED"
    if row["measured_mb"] < LEAST_MB:
        verdict = f"below {LEAST_MB} MB"
    return (
        f"{row['case']:<42} forecast {row['forecast_mb']:7.0f} MB  measured "
        f"{row['measured_mb']:7.0f} MB  {row['error']:+6.1%}  {verdict};  temporaries: "
        f"{row['walk_mb']:.0f} MB walked, {row['xla_mb']:.0f} MB planned by XLA"
    )


def resident(which: str) -> float:
    """`VmRSS` or `VmHWM` of this process, MB."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(which + ":"):
            return int(text.split()[1]) * 1024 / 1e6
    raise SystemExit("the benchmark reads /proc and needs Linux")


def measure(
    model: tuple[Any, ...] = (),
    *,
    x: Any = (784,),
    clients: int = 20,
    each: int = 20,
    cohort: int = 8,
    batch: int = 10,
    lanes: int = 1,
    devices: int = 1,
    optimizer: str = "sgd",
    algorithm: str = "fedavg",
    cli: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run one case here; MB of forecast and measurement."""
    import jax
    import optax

    import fedjax_sim as fs
    from fedjax_sim.engine import liveness
    from fedjax_sim.experiment import session as sessions

    modules = (fs.run, fs.algorithms.fedavg, fs.tasks.classifier, fs.models.mlp, fs.data.digits)
    del modules
    before = resident("VmRSS")
    seen: list[Any] = []
    sessions.Dispatch = _watched(sessions.Dispatch, seen)
    if cli:
        from fedjax_sim.cli.main import main as command

        before = resident("VmRSS")
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["--model.widths", cli[0], "--rounds", "3", "--run.cohort", "4"]
            if command(["run", "--out", f"{folder}/run", "--client.epochs", "1", *arguments]):
                raise SystemExit("the command line failed")
    else:
        fs.cores_as_devices(devices)
        rate = {
            "sgd": lambda: optax.sgd(0.01),
            "momentum": lambda: optax.sgd(0.01, momentum=0.9),
            "adam": lambda: optax.adam(1e-3),
        }[optimizer]()
        recipe = getattr(fs.algorithms, algorithm)(rate, epochs=1, batch_size=batch)
        made = getattr(fs.models, model[0])(*model[1:])
        is_text = x == "text"
        task = fs.tasks.next_char(made, _TEXT[1]) if is_text else fs.tasks.classifier(made, 10)
        federation = _federation(x, clients, each)
        fs.run(recipe, task, federation, cohort=cohort, rounds=3, lanes=lanes, devices=devices)
    peak = resident("VmHWM")
    dispatch = seen[0]
    donated = len(jax.tree.leaves(dispatch.shapes))
    walk = liveness.temporaries(dispatch.program, frozenset(range(1, 1 + donated)))
    by_kind = {kind: round(n / 1e6, 1) for kind, n in dispatch.forecast.by_kind().items()}
    return {
        "forecast_mb": round(dispatch.forecast.total / 1e6, 1),
        "measured_mb": round(peak - before, 1),
        "walk_mb": round(walk.bytes / 1e6, 1),
        "xla_mb": round(dispatch.planned_bytes() / 1e6, 1),
        "operations": liveness.n_operations(dispatch.program),
        "by_kind_mb": by_kind,
    }


def _watched(made: Any, seen: list[Any]) -> Any:
    def make(*arguments: Any, **named: Any) -> Any:
        seen.append(made(*arguments, **named))
        return seen[-1]

    return make


def _federation(x: Any, clients: int, each: int) -> Any:
    from fedjax_sim.data.federated import Federation, Shards

    count = clients * each
    offsets, sizes = np.arange(clients) * each, np.full(clients, each)
    if x == "text":
        rng = np.random.default_rng(0)
        text = rng.integers(0, _TEXT[1], (count, _TEXT[0]), np.int32)
        return Federation(Shards(text, text, offsets, sizes), name="text")
    rng = np.random.default_rng(0)
    inputs = np.empty((count, *x), np.float32)
    for i in range(clients):
        inputs[i * each : (i + 1) * each] = rng.standard_normal((each, *x), np.float32)
    labels = (np.arange(count) % 10).astype(np.int32)
    return Federation(Shards(inputs, labels, offsets, sizes), n_classes=10, name="noise")


if __name__ == "__main__":
    main()
