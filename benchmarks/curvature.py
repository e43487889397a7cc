"""What a Hessian-vector product costs, in full gradients over the same data.

    python benchmarks/curvature.py [--pairs 7] [--workload digits-mlp]

Gradients and blocks of products run in turn in one process, through the same engine, on the same
windows. Predicted: with F1 and F the multiply-adds of the first and of the other layers, a
gradient takes `2 F1 + 3 F` an example (no gradient of the inputs), a product `2 F1 + 6 F` (both
factors of every product vary, but for the inputs), and a block shares one gradient's pass. The
last rows are whole runs of block Lanczos, reorthogonalisation on the host included, over as many
gradients as they took products.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from architectures import perceptron
from machine import describe
from ours_worker import params_of, shards_of, start_backend, task_of
from ragged import spread
from workloads import WORKLOADS, Flat, Workload, flat

from fedjax_sim.core.types import Model
from fedjax_sim.diagnostics.curvature import Landscape, landscape
from fedjax_sim.diagnostics.lanczos import block_lanczos, random_block

RESULT = Path(__file__).resolve().parent / "results" / "curvature.json"
BLOCKS = (1, 4, 8)
LIMIT = 2.2
STEPS = 5
DIGITS = dataclasses.replace(
    WORKLOADS["W1-mlp"], layers=perceptron(64, 200, 56, 10), inputs=(64,), mnist=False
)


def digits() -> Flat:
    """The 1,797 bundled digits as 100 clients, four fifths of them for training."""
    import fedjax_sim as fs

    train = fs.data.digits(fs.partition.iid(clients=100), test_fraction=0.2).train
    return Flat(train.x.reshape(len(train.x), -1), train.y, train.offsets, train.sizes)


def predicted(workload: Workload, block: int) -> float:
    """A product in gradients, by multiply-adds."""
    first, *others = (layer.multiplies for layer in workload.layers)
    rest = sum(others)
    return (2 * first + 6 * rest) / (2 * first + 3 * rest) + 1 / block


def timed(what: Callable[[], Any]) -> float:
    """Seconds of one call, whose result is NumPy."""
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def calls(ground: Landscape) -> dict[Any, Callable[[], Any]]:
    """A gradient, blocks of products, and a run of Lanczos."""
    x, n, made = ground.point, len(ground.point), {}
    made["gradient"] = lambda: ground.slope(x)
    for block in BLOCKS:
        v = random_block(block, n, block)
        made[block] = lambda v=v: ground.products(x, v)
    first = random_block(BLOCKS[-1], n)
    made["lanczos"] = lambda: block_lanczos(
        lambda v: ground.products(x, v), first, steps=STEPS, epsilon=ground.epsilon
    )
    return made


def measured(name: str, workload: Workload, host: Flat, float64: bool, pairs: int) -> list[Any]:
    """Rows of one workload in one precision."""
    with jax.enable_x64(True) if float64 else contextlib.nullcontext():
        kind = np.float64 if float64 else np.float32
        params = jax.tree.map(lambda p: np.asarray(p, kind), params_of(workload))
        host = host._replace(x=host.x.astype(kind))
        ground = landscape(task_of(workload), Model(params, ()), shards_of(host))
        todo = calls(ground)
        for what in todo.values():
            what()
        runs: dict[Any, list[float]] = {n: [] for n in todo}
        for _ in range(pairs):
            for n, what in todo.items():
                runs[n].append(timed(what))
    rows = []
    for n in (*BLOCKS, "lanczos"):
        products = STEPS * BLOCKS[-1] if n == "lanczos" else n
        over = [s / products / g for s, g in zip(runs[n], runs["gradient"], strict=True)]
        row = {
            "workload": name,
            "parameters": len(ground.point),
            "examples": int(np.sum(host.sizes)),
            "precision": kind.__name__,
            "devices": ground.plan.devices,
            "what": f"lanczos, {products} products" if n == "lanczos" else f"block of {n}",
            "gradient_seconds": statistics.median(runs["gradient"]),
            "predicted": predicted(workload, BLOCKS[-1] if n == "lanczos" else n),
            "over_gradient": spread(over),
            "limit": LIMIT,
        }
        rows.append(row)
        seen = row["over_gradient"]
        print(
            f"{name:11} {kind.__name__} {row['what']:22} predicted {row['predicted']:.2f}  seen "
            f"{seen['median']:.2f} ({seen['min']:.2f} to {seen['max']:.2f}) gradients a product",
            flush=True,
        )
    return rows


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", action="append", choices=("digits-mlp", "W1-mlp"))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--precision", action="append", choices=("float32", "float64"))
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    start_backend(options.platform)
    names = options.workload or ["digits-mlp", "W1-mlp"]
    rows = []
    for name in names:
        workload = DIGITS if name == "digits-mlp" else WORKLOADS[name]
        host = digits() if name == "digits-mlp" else flat(workload)
        for precision in options.precision or ["float32", "float64"]:
            rows += measured(name, workload, host, precision == "float64", options.pairs)
    record = {"machine": describe(), "command": "python benchmarks/curvature.py", "rows": rows}
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
