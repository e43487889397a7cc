"""What do the verdict's watch and the drift panel add to a round of W1-mlp?

    python benchmarks/diagnosis_cost.py [--workload W1-mlp] [--pairs 15] [--rounds 40]
        [--devices D] [--every 10]

In one process, all compiled, one block after the other in turn: the plain round loop; with the
verdict's watch; with the drift panel every 10th round, and in every round; and both again with the
noise probe (`diagnosis.noise_scale`, off by default).
Ratio: the median over the pairs, each with the plain block of its own turn. Beside it stands
what the operations alone predict: gradients of the probe, and reads and writes of P floats.

Writes to `benchmarks/results/diagnosis_cost.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import machine
import numpy as np
import records
from ours_worker import params_of, shards_of, start_backend, task_of
from workloads import WORKLOADS, Workload, flat

BARS = {"verdict": 1.01}
BARS |= dict.fromkeys(("drift_every_10", "drift_every_10_with_noise"), 1.05)
BARS |= dict.fromkeys(("drift_every_1", "drift_every_1_with_noise"), 1.20)
PROBE_CLIENTS, PROBE_BATCH, SPACING = 4, 10, 5


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all sides share."""

    workload: Workload
    task: Any
    plan: Any
    mesh: Any
    shards: Any
    params: Any
    chunk: int

    def side(
        self, *, verdict: bool = False, every: int = 0, noise: bool = False
    ) -> Callable[[int], float]:
        """`(rounds) -> seconds a round` of one program, compiled and warm."""
        import jax
        import jax.numpy as jnp
        import optax

        from fedjax_sim.algorithms.fedavg import fedavg
        from fedjax_sim.core.types import Model
        from fedjax_sim.diagnostics.drift import drift_panel, drift_watch
        from fedjax_sim.diagnostics.watch import watch as verdict_watch
        from fedjax_sim.engine import mesh as meshes
        from fedjax_sim.engine.bind import bind
        from fedjax_sim.engine.simulate import init_run, make_simulate
        from fedjax_sim.sampling.uniform import uniform

        work = self.workload
        recipe = fedavg(
            optax.sgd(work.rate), epochs=work.epochs, batch_size=work.batch, weighting="uniform"
        )
        panel = drift_panel(every=every) if every else None
        algorithm = bind(recipe, self.task, self.plan, self.mesh, panel=panel)
        sampler = uniform(work.cohort, work.clients)
        watch = verdict_watch() if verdict else None
        if every:
            watch = drift_watch(
                self.task,
                self.plan,
                self.mesh,
                every=every,
                clients=PROBE_CLIENTS * noise,
                batch_size=PROBE_BATCH,
                weighting="uniform",
            )
        key = meshes.place(jax.random.key(0), self.mesh)
        model = Model(jax.tree.map(jnp.copy, self.params), ())
        first = init_run(algorithm, sampler, key, model, work.clients, watch=watch)
        simulate = jax.jit(
            make_simulate(algorithm, sampler, chunk=self.chunk, watch=watch),
            donate_argnums=1,
            out_shardings=meshes.replicated(self.mesh),
        )
        held = [meshes.place(first, self.mesh)]

        def run(rounds: int) -> float:
            start, turns = time.perf_counter(), max(1, rounds // self.chunk)
            for _ in range(turns):
                held[0], _ = simulate(key, held[0], np.int32(self.chunk), self.shards)
                jax.block_until_ready(held[0])
            return (time.perf_counter() - start) / (turns * self.chunk)

        run(self.chunk)
        return run


def build(workload: Workload, devices: int | None, chunk: int) -> Bench:
    """Everything on the devices but the programs."""
    from fedjax_sim.engine import mesh as meshes
    from fedjax_sim.engine import plan as plans

    plan = plans.choose(
        workload.parameters,
        workload.cohort,
        devices=devices,
        skew=plans.skew_of(workload.client_sizes()),
    )
    mesh = meshes.make_mesh(plan.devices)
    shards = meshes.place(shards_of(flat(workload)), mesh)
    return Bench(workload, task_of(workload), plan, mesh, shards, params_of(workload), chunk)


def predicted(workload: Workload, every: int, noise: bool) -> float:
    """Ratio by counting passes over P numbers, the only cost that grows with the model.

    A local step reads or writes P some 5 times, and its products are taken to last as long
    again; a client's start and its fold into the mean are 3 passes. A measured client adds 5
    (its norm: two reads; its direction: three reads and a write), the probe, every fifth
    round at most, its gradients, as steps of one batch.
    """
    steps = workload.steps / workload.cohort
    a_client = 2 * 5 * steps + 3
    probe = 2 * 5 * 2 * PROBE_CLIENTS * noise / workload.cohort
    return 1 + (5 / every + probe / max(every, SPACING)) / a_client


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="W1-mlp")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--chunk", type=int, default=20)
    parser.add_argument("--devices", type=int)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--dry", action="store_true", help="print only, write no record")
    asked = parser.parse_args()
    start_backend("cpu", asked.devices)
    bench = build(WORKLOADS[asked.workload], asked.devices, asked.chunk)
    sides = {
        "plain": bench.side(),
        "verdict": bench.side(verdict=True),
    }
    for every in (asked.every, 1):
        sides[f"drift_every_{every}"] = bench.side(every=every)
        sides[f"drift_every_{every}_with_noise"] = bench.side(every=every, noise=True)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(asked.pairs):
        for name, side in sides.items():
            times[name].append(side(asked.rounds))
    rows = []
    for name in [n for n in sides if n != "plain"]:
        ratios = [a / b for a, b in zip(times[name], times["plain"], strict=True)]
        noise = name.endswith("_with_noise")
        stem = name.removesuffix("_with_noise")
        every = int(stem.rpartition("_")[2]) if name.startswith("drift") else 0
        row = {
            "workload": asked.workload,
            "what": name,
            "ratio": round(statistics.median(ratios), 4),
            "predicted": round(predicted(bench.workload, every, noise), 4) if every else 1.0,
            "bar": BARS.get(name),
            "ratios": [round(r, 4) for r in ratios],
            "ratio_of_least": round(min(times[name]) / min(times["plain"]), 4),
            "ms_a_round": round(1e3 * statistics.median(times[name]), 4),
            "plain_ms_a_round": round(1e3 * statistics.median(times["plain"]), 4),
            "devices": bench.plan.devices,
            "plan": dataclasses.asdict(bench.plan),
            "probe": {"clients": PROBE_CLIENTS, "batch_size": PROBE_BATCH},
            "pairs": asked.pairs,
            "rounds": asked.rounds,
        }
        rows.append(row | machine.describe())
        kept = row["bar"] is None or row["ratio"] < row["bar"]
        print(
            f"{name:25s} predicted {row['predicted']:.3f}  seen {row['ratio']:.4f} "
            f"(of the least {row['ratio_of_least']:.4f})  bar {row['bar']}  "
            f"{'kept' if kept else 'NOT KEPT'}  {row['ms_a_round']:.2f} ms a round"
        )
    if not asked.dry:
        path = records.RESULTS / "diagnosis_cost.json"
        records.merge(path, rows, ("workload", "what", "devices"))


if __name__ == "__main__":
    main()
