"""How far the engine is from a minimal hand-written JAX program for the same work.

    python benchmarks/floor.py --workload W1-lin --workload W1-mlp

The floor has no framework in it: equal clients, one optimizer, one loss, no client state, no
plan. It scans its rounds, draws cohorts without replacement and a fresh permutation of every
client's examples each round (the package's bijection: the same quality, and faster than the sort
of `jax.random.permutation`), uses cores as devices, and is the best of lanes 1, 10 and 25
vmapped. Same float32, same steps, and the training loss of every round as its only record.
Engine and floor run in turn in one process.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from machine import describe
from ours_worker import start_backend
from ragged import Block, program, spread
from workloads import WORKLOADS, Workload, examples, flat, initial

from fedjax_sim.data.batching import shuffled
from fedjax_sim.engine.plan import choose

RESULT = Path(__file__).resolve().parent / "results" / "floor.json"
LANES = (1, 10, 25)


def mean_loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Of dense layers with ReLU between them."""
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    outputs = x @ params[-1][0] + params[-1][1]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, y))


def floor(workload: Workload, lanes: int, devices: int) -> Block:
    """The minimal program: `() -> (seconds, {"train_loss": [R]})`, always the same rounds."""
    n, k = workload.examples, workload.cohort // devices
    steps, whole = n // workload.batch, PartitionSpec()

    def client(key: jax.Array, who: jax.Array, sent: Any, x: jax.Array, y: jax.Array) -> Any:
        words = jax.random.key_data(jax.random.fold_in(key, who))
        order = shuffled(words, jnp.uint32(0), jnp.arange(n), n).reshape(steps, -1)

        def step(params: Any, rows: jax.Array) -> Any:
            loss, grads = jax.value_and_grad(mean_loss)(params, x[who, rows], y[who, rows])
            return jax.tree.map(lambda p, g: p - workload.rate * g, params, grads), loss

        params, losses = jax.lax.scan(step, sent, order)
        return jax.tree.map(jnp.subtract, sent, params), jnp.mean(losses)

    def cohort(key: jax.Array, ids: jax.Array, sent: Any, x: jax.Array, y: jax.Array) -> Any:
        def wave(total: Any, who: jax.Array) -> Any:
            if len(who) == 1:
                out = client(key, who[0], sent, x, y)
            else:
                out = jax.vmap(client, (None, 0, None, None, None))(key, who, sent, x, y)
                out = jax.tree.map(lambda v: jnp.sum(v, axis=0), out)
            return jax.tree.map(jnp.add, total, out), None

        nothing = jax.tree.map(jnp.zeros_like, (sent, jnp.zeros(())))
        full = k // lanes * lanes
        total, _ = jax.lax.scan(wave, nothing, ids[:full].reshape(-1, lanes))
        if full < k:
            total, _ = wave(total, ids[full:])
        return jax.lax.psum(total, "cores")

    mesh = Mesh(jax.devices()[:devices], ("cores",))
    specs = (whole, PartitionSpec("cores"), whole, whole, whole)
    on_cores = jax.shard_map(cohort, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)

    def run(key: jax.Array, params: Any, x: jax.Array, y: jax.Array) -> Any:
        def one(params: Any, index: jax.Array) -> Any:
            of_round = jax.random.fold_in(key, index)
            words = jax.random.key_data(of_round)
            ids = shuffled(words, jnp.uint32(1), jnp.arange(workload.cohort), workload.clients)
            total, loss = on_cores(of_round, ids, params, x, y)
            new = jax.tree.map(lambda p, t: p - t / workload.cohort, params, total)
            return new, loss / workload.cohort

        return jax.lax.scan(one, params, jnp.arange(workload.rounds))

    replicated = NamedSharding(mesh, whole)
    given = (jax.random.key(0), initial(workload), *examples(workload))
    given = jax.device_put(given, replicated)
    minimal = jax.jit(run, out_shardings=replicated)

    def block() -> tuple[float, dict[str, np.ndarray]]:
        began = time.perf_counter()
        out = jax.block_until_ready(minimal(*given))
        return time.perf_counter() - began, {"train_loss": np.asarray(out[1])}

    block()
    return block


def compare(name: str, pairs: int) -> dict[str, Any]:
    """Engine and floor in turn; a result row."""
    workload = WORKLOADS[name]
    devices = len(jax.devices())
    plan = choose(workload.parameters, workload.cohort, devices=devices)
    ours = program(workload, flat(workload), plan, rounds=workload.rounds)
    floors = {n: floor(workload, n, devices) for n in LANES}
    least = {n: min(block()[0] for _ in range(5)) for n, block in floors.items()}
    best = min(least, key=lambda n: least[n])
    runs = [(ours(), floors[best]()) for _ in range(pairs)]
    rounds, losses = workload.rounds, [r["train_loss"][-5:].mean() for _, r in runs[-1]]
    if abs(losses[0] / losses[1] - 1) > 0.05:
        raise SystemExit(f"{name}: the losses differ, so does the work: {losses}")
    row = {
        "workload": name,
        "plan": {"lanes": plan.lanes, "devices": plan.devices},
        "engine_seconds": float(np.median([a for (a, _), _ in runs])) / rounds,
        "floor_seconds": float(np.median([b for _, (b, _) in runs])) / rounds,
        "floor_lanes": best,
        "floor_seconds_by_lanes": {n: s / rounds for n, s in least.items()},
        "ratio": spread([a / b for (a, _), (b, _) in runs]),
        "train_loss": {"engine": float(losses[0]), "floor": float(losses[1])},
    }
    print(
        f"{name:10} engine {1e3 * row['engine_seconds']:8.3f} ms (lanes {plan.lanes})   floor "
        f"{1e3 * row['floor_seconds']:8.3f} ms (lanes {best})   ratio {row['ratio']['median']:.2f} "
        f"[{row['ratio']['min']:.2f} .. {row['ratio']['max']:.2f}]   loss {losses[0]:.4f} / "
        f"{losses[1]:.4f}",
        flush=True,
    )
    return row


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ("W1-lin", "W1-mlp", "W1-mlp-B50")
    parser.add_argument("--workload", action="append", choices=names)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    start_backend(options.platform)
    rows = [compare(name, options.pairs) for name in options.workload or ("W1-lin", "W1-mlp")]
    record = {"machine": describe(), "command": "python benchmarks/floor.py", "rows": rows}
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
