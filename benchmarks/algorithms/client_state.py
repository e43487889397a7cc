"""What do client rows cost, and can there be more of them than memory holds?

    python benchmarks/algorithms/client_state.py speed [--pairs 5] [--devices 1 2] [--case small]
    python benchmarks/algorithms/client_state.py scale [--gigabytes 20] [--rounds 60]

`speed`: seconds a round with client rows on the device, on the host and on disk, and of FedAvg
with the same local steps, in turn in one process, evaluation left out. The bar is 1.15 x (FedAvg +
the cohort's rows read and written once at the bandwidth that a large copy has in this run).
`local_only` trains as FedAvg does and its rows are models, so that what it takes more is what rows
cost. SCAFFOLD also adds `c - c_i` to every gradient, which the bar does not grant. Both clocks are
recorded: on a machine that others use the processor's is the one to read, though it counts what
runs beside the training, and waits of devices for each other, as if they took time.

`scale`: SCAFFOLD with N x P of so many gigabytes on disk, a run with checkpoints in a process
of its own; its peak resident memory, imports included. Rows of clients that never took part
are not in the file: `physical_gb` is what was written, and grows with the rounds.

Writes to `benchmarks/results/client_state.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import machine
import records

HERE = Path(__file__).resolve()
RECORD = records.RESULTS / "client_state.json"
BAR, RESIDENT_BAR_GB = 1.15, 2.0
ALGORITHMS = ("local_only", "scaffold")
_KEY = ("what", "algorithm", "case", "form", "devices", "logical_gb", "rounds")
FORMS = ("device", "host", "disk")
# widths, clients, cohort, local steps
CASES = {
    "small": ((200, 200), 400, 10, 20),
    "medium": ((512, 512), 400, 10, 20),
    "one step": ((512, 512), 400, 10, 1),
}
_INPUTS, _CLASSES, _BATCH = 60, 10, 10


def federation(clients: int) -> Any:
    """Clients of 20 examples of noise: what is learned does not matter here."""
    from fedjax_sim.data.federated import Federation, shards_from_index

    draw = np.random.default_rng(0)
    x = draw.normal(size=(clients * 20, _INPUTS)).astype(np.float32)
    y = draw.integers(0, _CLASSES, clients * 20).astype(np.int32)
    parts = np.split(np.arange(clients * 20), clients)
    return Federation(shards_from_index(x, y, parts), None, name="noise")


def recipe(name: str, steps: int) -> Any:
    """An algorithm with a fixed number of local steps."""
    import optax

    import fedjax_sim as fs

    given = {"epochs": None, "steps": steps, "batch_size": _BATCH}
    return getattr(fs.algorithms, name)(optax.sgd(0.01), **given)


class Spent(NamedTuple):
    """Seconds by the clock, and of all of the process's threads on a processor."""

    wall: float
    cpu: float


def spent(work: Callable[[], Any]) -> Spent:
    """Run it and look at both clocks."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


class Side:
    """One form, compiled."""

    def __init__(self, name: str, form: str, case: str, devices: int) -> None:
        import fedjax_sim as fs
        from fedjax_sim.experiment.dispatch import Dispatch
        from fedjax_sim.experiment.prepare import prepare

        widths, clients, cohort, steps = CASES[case]
        settings = fs.Settings(
            rounds=10**6,
            cohort=cohort,
            lanes=1,
            devices=devices,
            chunk=4,
            client_state=form,
            diagnosis=fs.Diagnosis(False, 0),
        )
        task = fs.tasks.classifier(fs.models.mlp(*widths), classes=_CLASSES)
        made = prepare(recipe(name, steps), task, federation(clients), settings, rows_away=True)
        self._dispatch, self._done = Dispatch(made), 0
        self._dispatch.compile()
        self._state = self._dispatch.first_state()
        self.row_bytes = sum(
            x.size * x.dtype.itemsize // clients for x in _leaves(self._dispatch, form)
        )

    def run(self, rounds: int) -> Spent:
        """Time of so many rounds, a multiple of the chunk."""
        return spent(lambda: [self._chunk() for _ in range(rounds // 4)])

    def _chunk(self) -> None:
        self._state, _ = self._dispatch(self._state, 4)


def _leaves(dispatch: Any, form: str) -> list[Any]:
    import jax

    return jax.tree.leaves(dispatch.shapes.rows) if form == "device" else []


def seconds_a_byte() -> Spent:
    """Of a byte read or written by a copy of 256 MB; the best of five."""
    source, target = (np.full(2**28, 1, np.uint8) for _ in range(2))
    all_of_them = [spent(lambda: np.copyto(target, source)) for _ in range(5)]
    return Spent(*(min(times) / (2 * source.nbytes) for times in zip(*all_of_them, strict=True)))


def speed(algorithm: str, case: str, devices: int, pairs: int, rounds: int) -> list[dict[str, Any]]:
    """All forms of one case, in turn."""
    cohort = CASES[case][2]
    sides = {form: Side(algorithm, form, case, devices) for form in FORMS}
    sides["fedavg"] = Side("fedavg", "device", case, devices)
    row_bytes = sides["device"].row_bytes
    for side in sides.values():
        side.run(40)
    timed: dict[str, list[Spent]] = {name: [] for name in sides}
    bytes_of: list[Spent] = []
    for _ in range(pairs):
        for name, side in sides.items():
            timed[name].append(side.run(rounds))
        bytes_of.append(seconds_a_byte())
    rows = []
    for form in FORMS:
        row: dict[str, Any] = {"what": "speed", "algorithm": algorithm, "case": case}
        row |= {"form": form, "devices": devices}
        for clock in Spent._fields:
            mine, base, byte = (
                np.array([getattr(s, clock) for s in of])
                for of in (timed[form], timed["fedavg"], bytes_of)
            )
            extra = 2 * cohort * row_bytes * byte
            ratios = mine / rounds / (base / rounds + extra)
            row |= {
                f"{clock}_ratio": round(float(np.median(ratios)), 3),
                f"{clock}_ratios": np.round(ratios, 3).tolist(),
                f"{clock}_ms_a_round": round(1e3 * float(np.median(mine)) / rounds, 3),
                f"fedavg_{clock}_ms_a_round": round(1e3 * float(np.median(base)) / rounds, 3),
                f"rows_{clock}_ms": round(1e3 * float(np.median(extra)), 4),
            }
        row |= {"row_bytes": row_bytes, "load": os.getloadavg()[0], "bar": BAR}
        print({k: v for k, v in row.items() if k not in ("what", "bar")}, flush=True)
        rows.append(row | {"machine": machine.describe()})
    return rows


def scale(gigabytes: float, rounds: int, cohort: int, width: int) -> dict[str, Any]:
    """The run, in this process."""
    import optax

    import fedjax_sim as fs

    p = _INPUTS * width + width + width * width + width + width * _CLASSES + _CLASSES
    clients = int(np.ceil(gigabytes * 1e9 / (4 * p)))
    before = machine.peak_resident()
    with tempfile.TemporaryDirectory() as folder:
        run = fs.run(
            fs.algorithms.scaffold(optax.sgd(0.01), epochs=None, steps=1, batch_size=_BATCH),
            fs.tasks.classifier(fs.models.mlp(width, width), classes=_CLASSES),
            federation(clients),
            cohort=cohort,
            rounds=rounds,
            out=Path(folder) / "run",
            client_state="disk",
            checkpoint_every=max(1, rounds // 3),
            diagnosis=fs.Diagnosis(False, 0),
            devices=1,
        )
        on_disk = sum(
            p.stat().st_blocks * 512 for p in Path(folder).rglob("client_rows*") if p.is_file()
        )
    seconds = run.summary["seconds"]
    return {
        "what": "scale",
        "clients": clients,
        "row_mb": round(4 * p / 1e6, 2),
        "logical_gb": round(4 * p * clients / 1e9, 2),
        "physical_gb": round(on_disk / 1e9, 2),
        "rounds": rounds,
        "cohort": cohort,
        "peak_resident_gb": round(machine.peak_resident() / 1e9, 3),
        "after_imports_gb": round(before / 1e9, 3),
        "bar_gb": RESIDENT_BAR_GB,
        "seconds_a_round": round(seconds / rounds, 4),
        "load": os.getloadavg()[0],
        "machine": machine.describe(),
    }


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("speed", "scale", "scale-worker"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--block", type=int, default=20, help="rounds timed at a time")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--case", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--algorithm", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--cohort", type=int, default=20)
    parser.add_argument("--width", type=int, default=1000)
    asked = parser.parse_args()
    if asked.what == "scale-worker":
        row = scale(asked.gigabytes, asked.rounds, asked.cohort, asked.width)
        print(json.dumps(row))
        return
    if asked.what == "scale":
        done = subprocess.run(
            [sys.executable, str(HERE), "scale-worker", *sys.argv[2:]],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows = [json.loads(done.stdout.splitlines()[-1])]
        print(rows[0])
    else:
        import fedjax_sim as fs

        fs.cores_as_devices(max(asked.devices))
        rows = []
        for case in asked.case:
            for devices in asked.devices:
                for name in asked.algorithm:
                    rows += speed(name, case, devices, asked.pairs, asked.block)
    records.merge(RECORD, rows, _KEY)


if __name__ == "__main__":
    main()
