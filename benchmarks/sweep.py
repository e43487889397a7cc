"""W6: 64 seeds x 8 learning rates = 512 runs of 50 rounds, three ways of running them.

    python benchmarks/sweep.py --workload W1-lin --workload digits

(a) A sweep: one program, the runs dealt to the cores; seconds in all are those of a
    `fedjax-sim sweep` process with a cold compile cache.
(b) One run after another in one process, compiled once, with the plan (lanes, devices) that
    is fastest for a single run; interleaved with (a) on the same runs, and scaled to 512.
(c) Separate `fedjax-sim run` processes with a warm compile cache; ten, and scaled to 512.

`--part` runs one of them at a time: `pairs` is (a) against (b), `whole` is (a) on all 512,
`processes` is (c). The record is `benchmarks/results/sweep.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import machine
import records
from workloads import WORKLOADS, flat

from fedjax_sim.engine.mesh import cores_as_devices

HERE = Path(__file__).resolve().parent
SEEDS, ROUNDS = 64, 50
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
RUNS = SEEDS * len(RATES)
W1_LIN = """
[data]
name = "sweep:w1_lin"
[model]
name = "logistic"
[task]
name = "classification"
[algorithm]
name = "fedavg"
weighting = "uniform"
[client]
learning_rate = 0.1
epochs = 1
batch_size = 10
[run]
cohort = 50
"""
FILES = {"W1-lin": W1_LIN, "digits": None}
LANES, DEVICES = (1, 8, 25, 50), (1, 2)
KEY = "client_learning_rate"


def w1_lin() -> Any:
    """The clients of W1-lin, named by its experiment file."""
    from fedjax_sim.data.federated import Federation, Shards

    data = flat(WORKLOADS["W1-lin"])
    return Federation(Shards(*data), name="W1-lin", n_classes=10)


def table_of(name: str) -> dict[str, Any]:
    """The workload's experiment; digits is the bundled default."""
    import tomllib

    from fedjax_sim.experiment import config

    text = FILES[name]
    return config.read(None) if text is None else tomllib.loads(text)


def one_after_another(name: str, lanes: int, devices: int) -> Callable[..., None]:
    """(b): a function of seeds and rates that runs them all, compiled at the first call."""
    import jax
    import numpy as np

    from fedjax_sim.engine import mesh as meshes
    from fedjax_sim.experiment import config
    from fedjax_sim.experiment.build import build
    from fedjax_sim.experiment.prepare import prepare
    from fedjax_sim.experiment.probe import shards_for_device

    built = build(config.resolve(table_of(name), {"run": {"rounds": ROUNDS}}))
    plan = {"lanes": lanes, "devices": devices, "chunk": ROUNDS}
    p = prepare(
        built.recipe, built.task, built.federation, dataclasses.replace(built.settings, **plan)
    )
    home = meshes.replicated(p.mesh)
    simulate = jax.jit(p.simulate(), donate_argnums=1, out_shardings=home)
    init = jax.jit(lambda key, hyper: p.init_state(None, key, hyper), out_shardings=home)
    data, evaluation = meshes.place((shards_for_device(p.federation.train), p.evaluation), p.mesh)
    numbers = meshes.place([np.int32(ROUNDS), np.int32(1), np.int32(ROUNDS)], p.mesh)

    def run(seeds: Sequence[int], rates: Sequence[float]) -> None:
        for seed in seeds:
            for rate in rates:
                key = meshes.place(jax.random.key(np.uint32(seed)), p.mesh)
                state = init(key, {KEY: rate})
                _, out = simulate(key, state, numbers[0], data, evaluation, *numbers[1:])
                jax.device_get(out)

    return run


def as_one_program(name: str, inner: str) -> tuple[Callable[[int], float], dict[str, Any]]:
    """(a), compiled: a function that runs the first seeds with all rates, and the plan.

    The function returns its seconds, the records made of every run included.
    """
    import jax

    from fedjax_sim.experiment import sweep_plan, sweep_records
    from fedjax_sim.experiment.sweep_config import make_design, request
    from fedjax_sim.experiment.sweep_dispatch import SweepDispatch, blocks_of

    varied = {"client.learning_rate": list(RATES)}
    design = make_design(request(table_of(name), {"run.rounds": ROUNDS}, varied, SEEDS))
    group = design.groups[0]

    def plan(state: Any) -> Any:
        return sweep_plan.choose(
            group.prepared, state, seeds=SEEDS, settings=len(RATES), inner=inner
        )

    dispatch = SweepDispatch(group.prepared, plan, design.seeds, design.settings)
    dispatch.compile()

    def run(seeds: int) -> float:
        start = time.perf_counter()
        left = blocks_of(group.settings, seeds, dispatch.plan.width)
        while left:
            wave = dispatch.next_wave(left)
            buffers = dispatch.run(wave)
            curves = sweep_records.curves_of(buffers, dispatch.probes)
            sweep_records.outcomes(curves, dispatch.probes, buffers["finite"])
            left = left[len(wave) :]
        return time.perf_counter() - start

    facts = dataclasses.asdict(dispatch.plan) | {"lanes": group.prepared.plan.lanes}
    return run, facts | {"compile_seconds": dispatch.compile_seconds, "jax": jax.__version__}


def pairs(name: str, seeds: int, repeats: int, inner: str) -> dict[str, Any]:
    """(a) against (b), in turn, on `seeds` x 8 runs; a row of the record."""
    cohort = 50 if name == "W1-lin" else 10
    plans = [(n, d) for n in LANES if n <= cohort for d in DEVICES]
    single: dict[str, float] = {}
    best: tuple[float, str, Any] | None = None
    for lanes, devices in plans:
        run, label = one_after_another(name, lanes, devices), f"lanes {lanes}, devices {devices}"
        run([0], RATES[:1])
        single[label] = min(_seconds(lambda run=run: run([1], RATES[3:5])) / 2 for _ in range(2))
        print(f"{name}: one run, {label}: {1e3 * single[label]:.1f} ms", flush=True)
        if best is None or single[label] < best[0]:
            best = (single[label], label, run)
    assert best is not None
    sweep, plan = as_one_program(name, inner)
    sweep(2)
    n, rows = seeds * len(RATES), []
    for _ in range(repeats):
        a = sweep(seeds) / n
        b = _seconds(lambda: best[2](range(seeds), RATES)) / n
        rows.append((a, b))
        print(f"{name}: (a) {1e3 * a:.1f} ms a run  (b) {1e3 * b:.1f}  {b / a:.2f}", flush=True)
    return {
        "runs_measured": n,
        "sweep_seconds_a_run": statistics.median(a for a, _ in rows),
        "single_seconds_a_run": statistics.median(b for _, b in rows),
        "single_seconds_512_scaled": RUNS * statistics.median(b for _, b in rows),
        "single_plan": best[1],
        "single_plans_tried_seconds": single,
        "sweep_plan": plan,
        "one_after_another_over_sweep": statistics.median(b / a for a, b in rows),
        "ratios": [b / a for a, b in rows],
    }


def whole(name: str, inner: str) -> dict[str, Any]:
    """(a) on all 512 runs by the command line, from the start of its process to its end."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sweep"
        rates = f"[{', '.join(map(str, RATES))}]"
        options = ["--seeds", str(SEEDS), "--vary", "client.learning_rate", rates]
        seconds = _command(name, Path(folder), "sweep", "--inner", inner, *options, "--out", out)
        import json

        summary = json.loads((out / "summary.json").read_text())
    print(f"{name}: (a) 512 runs: {seconds:.1f} s in all, running {summary['seconds']:.1f} s")
    return {
        "whole_seconds": seconds,
        "whole_running_seconds": summary["seconds"],
        "whole_compile_seconds": summary["compile_seconds"],
        "whole_diverged": summary["diverged"],
    }


def processes(name: str, count: int) -> dict[str, Any]:
    """(c): separate processes; one more before them warms the compile cache."""
    with tempfile.TemporaryDirectory() as folder:
        at, seconds = Path(folder), []
        for i in range(count + 1):
            rate = str(RATES[i % len(RATES)])
            options = ["--seed", str(i), "--client.learning_rate", rate, "--out", at / str(i)]
            seconds.append(_command(name, at, "run", *options))
            print(f"{name}: (c) process {i}: {seconds[-1]:.2f} s", flush=True)
    each = statistics.mean(seconds[1:])
    return {
        "processes_measured": count,
        "process_seconds_a_run": each,
        "process_seconds_512_scaled": RUNS * each,
    }


def _command(name: str, at: Path, verb: str, *options: Any) -> float:
    """Seconds of one `fedjax-sim` command, 3 (all diverged) counted as an end."""
    text, file = FILES[name], []
    if text is not None:
        (at / "w1_lin.toml").write_text(text)
        file = [at / "w1_lin.toml"]
    argv = [sys.executable, "-m", "fedjax_sim.cli.main", verb, *file, "--rounds", ROUNDS, *options]
    env = machine.clean_environment(FEDJAX_SIM_CACHE=str(at / "cache"))
    env["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent)])
    start = time.perf_counter()
    done = subprocess.run([*map(str, argv)], env=env, cwd=at, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    return seconds


def _seconds(f: Callable[[], object]) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def main() -> None:
    """Measure what the command line names, and record it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", action="append", choices=sorted(FILES))
    parts = ("pairs", "whole", "processes")
    parser.add_argument("--part", action="append", choices=parts)
    parser.add_argument("--seeds", type=int, default=2, help="of the pairs, with 8 rates each")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--inner", default="auto", help="how the sweep runs a device's share")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "sweep.json")
    options = parser.parse_args()
    cores_as_devices()
    for name in options.workload or sorted(FILES):
        row: dict[str, Any] = {"workload": name, "runs": RUNS, "rounds": ROUNDS}
        row |= next((r for r in records.read(options.out) if r["workload"] == name), {})
        chosen = options.part or parts
        if "pairs" in chosen:
            row |= pairs(name, options.seeds, options.pairs, options.inner)
        if "whole" in chosen:
            row |= whole(name, options.inner)
        if "processes" in chosen:
            row |= processes(name, options.processes)
        if {"whole_seconds", "process_seconds_512_scaled"} <= row.keys():
            ratio = row["process_seconds_512_scaled"] / row["whole_seconds"]
            row["processes_over_sweep"] = ratio
            print(f"{name}: (c) / (a) = {ratio:.0f}")
        if "one_after_another_over_sweep" in row:
            print(f"{name}: (b) / (a) = {row['one_after_another_over_sweep']:.2f}")
        row["machine"] = machine.describe()
        records.merge(options.out, [row], ["workload"])


if __name__ == "__main__":
    main()
