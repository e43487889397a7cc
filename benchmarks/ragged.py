"""Ragged cohorts: how many lane steps are wasted, and whether the packing is worth its cost.

    python benchmarks/ragged.py [--workload W3-lin] [--pairs 7]

1. Lane steps over the bound max(longest client, total / lanes), FedAvg and SCAFFOLD (client state),
   on W3 at 8, 16 and 32 lanes a core and on W4's clients. The bound is worked out anew here.
2. Seconds for each executed lane step on W3, over those of equal clients (the same mean number of
   steps) at the same lanes; and seconds a round of W3 at every number of lanes, over one lane.
All programs of a question run in turn in one process, from the same state: the same cohorts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from machine import describe
from ours_worker import params_of, shards_of, start_backend, task_of
from workloads import WORKLOADS, Flat, Workload, flat

from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.algorithms.scaffold import scaffold
from fedjax_sim.core import keys
from fedjax_sim.core.types import Model
from fedjax_sim.engine import mesh as meshes
from fedjax_sim.engine.bind import bind
from fedjax_sim.engine.plan import Plan, choose, skew_of
from fedjax_sim.engine.simulate import init_run, make_simulate
from fedjax_sim.sampling.uniform import uniform

RESULT = Path(__file__).resolve().parent / "results" / "ragged.json"
LANES = (8, 16, 32)
RECIPES: dict[str, Callable[..., Any]] = {"fedavg": fedavg, "scaffold": scaffold}
Block = Callable[[], tuple[float, dict[str, np.ndarray]]]


def program(
    workload: Workload, host: Flat, plan: Plan, *, rounds: int, recipe: str = "fedavg"
) -> Block:
    """A compiled block: `() -> (seconds, records [rounds])`, always the same rounds."""
    mesh, task = meshes.make_mesh(plan.devices), task_of(workload)
    algorithm = bind(
        RECIPES[recipe](optax.sgd(workload.rate), batch_size=workload.batch), task, plan, mesh
    )
    sampler = uniform(workload.cohort, len(host.sizes))
    data, key = meshes.place((shards_of(host), jax.random.key(0)), mesh)
    model = Model(params_of(workload), ())
    state = meshes.place(init_run(algorithm, sampler, key, model, len(host.sizes)), mesh)
    whole = meshes.replicated(mesh)
    simulate = jax.jit(make_simulate(algorithm, sampler, chunk=rounds), out_shardings=whole)

    def block() -> tuple[float, dict[str, np.ndarray]]:
        began = time.perf_counter()
        out = jax.block_until_ready(simulate(key, state, np.int32(rounds), data))
        return time.perf_counter() - began, jax.device_get(out[1])

    block()
    return block


def equal_clients(workload: Workload, host: Flat) -> Flat:
    """As many clients on the same examples, all with the mean number of steps."""
    steps = round(float(np.mean(-(-host.sizes // workload.batch))))
    size = steps * workload.batch
    offsets = (np.arange(len(host.sizes)) * size) % (len(host.y) - size)
    return Flat(host.x, host.y, offsets, np.full_like(host.sizes, size))


def bounds(workload: Workload, host: Flat, slots: int, rounds: int) -> list[int]:
    """Lane steps of a perfect packing, round by round, in NumPy from the cohorts' sizes."""
    sampler, found = uniform(workload.cohort, len(host.sizes)), []
    for index in range(rounds):
        of_round = keys.round_key(jax.random.key(0), index)
        draw = keys.server_key(of_round, keys.Purpose.SAMPLE)
        ids = np.asarray(sampler.sample(draw, (), np.int32(index))[1].members.id)
        steps = -(-host.sizes[ids] // workload.batch)
        found.append(int(max(steps.max(), -(-steps.sum() // slots)) * slots))
    return found


def packing(
    name: str, workload: Workload, host: Flat, recipe: str, devices: int, rounds: int
) -> list[dict[str, Any]]:
    """Executed lane steps over the bound, at every number of lanes."""
    rows = []
    for lanes in LANES:
        plan = Plan(lanes, devices)
        records = program(workload, host, plan, rounds=rounds, recipe=recipe)()[1]
        slots = min(lanes, -(-workload.cohort // devices)) * devices
        bound = bounds(workload, host, slots, rounds)
        if bound != records["lane_steps_bound"].tolist():
            raise SystemExit(f"{name}: the engine's bound differs from {bound}")
        over = records["lane_steps"] / np.asarray(bound)
        useful = records["client_steps"] / records["lane_steps"]
        rows.append(
            {
                "workload": name,
                "algorithm": recipe,
                "lanes": lanes,
                "devices": devices,
                "executed_over_bound": [float(over.min()), float(over.max())],
                "efficiency": float(useful.mean()),
            }
        )
        print(f"{name:7} {recipe:8} lanes {lanes:3} executed / bound at most {over.max():.3f}, "
              f"efficiency {useful.mean():.2f}", flush=True)  # fmt: skip
    return rows


def in_turn(blocks: dict[Any, Block], pairs: int) -> dict[Any, list[tuple[float, int]]]:
    """`{name: [(seconds, executed lane steps)] of each turn}`."""
    runs: dict[Any, list[tuple[float, int]]] = {name: [] for name in blocks}
    for _ in range(pairs):
        for name, block in blocks.items():
            seconds, records = block()
            runs[name].append((seconds, int(records["lane_steps"].sum())))
    return runs


def spread(ratios: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def cost(name: str, workload: Workload, host: Flat, devices: int, pairs: int, rounds: int) -> Any:
    """Seconds a lane step against equal clients, and seconds a round against one lane."""
    skew = skew_of(host.sizes)
    chosen = choose(workload.parameters, workload.cohort, devices=devices, skew=skew).lanes
    even, blocks = equal_clients(workload, host), {}
    for lanes in sorted({1, chosen, *LANES}):
        blocks["ragged", lanes] = program(workload, host, Plan(lanes, devices), rounds=rounds)
        if lanes in LANES:
            blocks["equal", lanes] = program(workload, even, Plan(lanes, devices), rounds=rounds)
    runs, rows = in_turn(blocks, pairs), []
    for (kind, lanes), mine in runs.items():
        if kind == "equal":
            continue
        one = runs["ragged", 1]
        row: dict[str, Any] = {
            "workload": name,
            "lanes": lanes,
            "devices": devices,
            "chosen": lanes == chosen,
            "seconds_a_round": statistics.median(s for s, _ in mine) / rounds,
            "round_over_one_lane": spread(
                [a / b for (a, _), (b, _) in zip(mine, one, strict=True)]
            ),
        }
        if lanes in LANES:
            pairs_of = zip(mine, runs["equal", lanes], strict=True)
            row["lane_step_over_equal"] = spread([(a / n) / (b / m) for (a, n), (b, m) in pairs_of])
        rows.append(row)
        print(name, json.dumps(row), flush=True)
    return rows


def main() -> None:
    """Answer both questions, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", action="append", choices=("W3-lin", "W3-mlp"))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=4, help="rounds a block; W3-mlp takes one")
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    start_backend(options.platform)
    devices = len(jax.devices())
    record: dict[str, Any] = {"machine": describe(), "packing": [], "cost": []}
    linear, w4 = WORKLOADS["W3-lin"], WORKLOADS["W4"]
    ragged = flat(linear)
    for recipe in RECIPES:
        record["packing"] += packing("W3", linear, ragged, recipe, devices, 4)
    # Packing knows steps, not models: W4's clients with the small model, on its examples.
    sizes = w4.client_sizes()
    starts = np.cumsum(sizes) - sizes
    record["packing"] += packing(
        "W4", dataclasses.replace(linear, cohort=w4.cohort),
        Flat(ragged.x, ragged.y, starts, sizes), "fedavg", devices, 1,
    )  # fmt: skip
    for name in options.workload or ["W3-lin", "W3-mlp"]:
        workload, rounds = WORKLOADS[name], options.rounds if name == "W3-lin" else 1
        record["cost"] += cost(name, workload, flat(workload), devices, options.pairs, rounds)
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
