"""HeteroFL's five levels: what mixed widths save in wall time, and what they cost in accuracy.

    python benchmarks/algorithms/heterofl.py --workload digits "even digits" mnist --seeds 3

A federation whose clients have levels a to e in equal numbers against one of a alone, the same
clients, rounds and rates; one lane on one device, so that a local step runs the branch of its
client's level and no other. `masked` is the same algorithm with whole arrays: its accuracy is
that of `sliced`, its time says what the sliced form saves. `drawn`: a client's level is drawn anew
each round, the paper's dynamic assignment, so that everyone's examples reach what level a alone
holds.

A model with batch norm is settled after the run, in every arm: the paper's static batch norm asks
all clients for statistics at the end, and averages of five widths' running ones mean nothing.

The bar: mixed within 1 point of all-a at under 60 % of its wall time. By operations it is 27 %.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import machine
import numpy as np
import optax
import records

import fedjax_sim as fs
from fedjax_sim.algorithms.batch_norm import recalibrate
from fedjax_sim.algorithms.heterofl import heterofl
from fedjax_sim.engine.mesh import make_mesh
from fedjax_sim.engine.plan import Plan
from fedjax_sim.experiment.probe import shards_for_device
from fedjax_sim.tasks.cnn_heterofl import cnn_heterofl

RESULT = records.RESULTS / "heterofl.json"
UNWATCHED = fs.Diagnosis(verdict=False, drift_every=0)
CHUNKS = 5
ARMS: dict[str, dict[str, Any]] = {
    "all a": {"ratios": (1.0,)},
    "a to e, sliced": {"form": "sliced"},
    "a to e, masked": {"form": "masked"},
    "a to e, drawn": {"form": "sliced", "assign": "dynamic"},
}


class Workload(NamedTuple):
    """What is trained.

    Attributes:
      data: of a seed.
      model: the a level.
      rounds: of a run.
      rate: of the clients' SGD.
      batches: how examples become steps.
    """

    data: Any
    model: Any
    rounds: int
    rate: float
    batches: dict[str, int]


def digits(seed: int) -> Any:
    """Digits on 100 clients with skewed labels."""
    return fs.data.digits(fs.partition.dirichlet(clients=100, alpha=0.3), seed=seed)


def even_digits(seed: int) -> Any:
    """Digits on 100 clients, each with a fair share of every label."""
    return fs.data.digits(fs.partition.iid(clients=100), seed=seed)


def mnist(seed: int) -> Any:
    """6,000 of MNIST's examples on 100 clients, evenly, with 2,000 test examples."""
    whole = fs.data.mnist(fs.partition.iid(clients=1), image=True)
    assert whole.central_test is not None
    test = tuple(part[:2000] for part in whole.central_test)
    x, y = whole.train.x[:6000], whole.train.y[:6000]
    partition = fs.partition.iid(clients=100)
    return fs.data.from_arrays(x, y, partition, test=test, n_classes=10, name="mnist", seed=seed)


WORKLOADS = {
    "digits": Workload(
        digits, fs.models.mlp(1000, 1000), 100, 0.2, {"epochs": 5, "batch_size": 10}
    ),
    "even digits": Workload(
        even_digits, fs.models.mlp(1000, 1000), 100, 0.1, {"epochs": 5, "batch_size": 10}
    ),
    "mnist": Workload(
        mnist, cnn_heterofl(16, 32, 64, 128), 100, 0.1, {"epochs": 2, "batch_size": 20}
    ),
}


class Course(NamedTuple):
    """One run: accuracy at its end, and seconds a round."""

    accuracy: float
    wall_s: float
    cpu_s: float


def run(load: Workload, arm: dict[str, Any], seed: int, rounds: int) -> Course:
    """One run; the first of its dispatches, which compiles, is not timed."""
    federation = load.data(seed)
    recipe = heterofl(lambda lr: optax.sgd(lr), lr=load.rate, **load.batches, **arm)
    marks: list[tuple[int, float, float]] = []

    def mark(progress: Any) -> None:
        if progress.phase == "training":
            marks.append((progress.round, time.perf_counter(), time.process_time()))

    done = fs.run(
        recipe,
        fs.tasks.classifier(load.model, classes=10),
        federation,
        cohort=10,
        rounds=rounds,
        seed=seed,
        lanes=1,
        devices=1,
        chunk=max(rounds // CHUNKS, 1),
        eval_every=max(rounds // CHUNKS, 1),
        client_eval=False,
        diagnosis=UNWATCHED,
        progress=mark,
    )
    seen = np.array(marks)
    rate = (seen[-1] - seen[0]) / (seen[-1, 0] - seen[0, 0])
    assert done.model is not None
    return Course(settled_accuracy(load, federation, done.model), float(rate[1]), float(rate[2]))


def settled_accuracy(load: Workload, federation: Any, model: Any) -> float:
    """On the central test, with the batch norms' statistics of all clients' examples."""
    task = fs.tasks.classifier(load.model, classes=10).bind(federation.train.x.shape[1:])
    if jax.tree.leaves(model.state):
        shards = jax.tree.map(jnp.asarray, shards_for_device(federation.train))
        model = jax.jit(recalibrate(task, shards, plan=Plan(), mesh=make_mesh(1)))(model)
    x, y = federation.central_test
    return float(np.mean(np.argmax(task.predict(model, x), 1) == y))


def row_of(name: str, arm: str, courses: list[Course], base: list[Course]) -> records.Row:
    """What an arm came to beside all-a, its seeds interleaved."""
    behind = [100 * (b.accuracy - c.accuracy) for c, b in zip(courses, base, strict=True)]
    wall = [c.wall_s / b.wall_s for c, b in zip(courses, base, strict=True)]
    cpu = [c.cpu_s / b.cpu_s for c, b in zip(courses, base, strict=True)]
    return {
        "workload": name,
        "arm": arm,
        "accuracy": [round(100 * c.accuracy, 2) for c in courses],
        "points_behind_all_a": round(float(np.mean(behind)), 2),
        "wall_s_a_round": [round(c.wall_s, 4) for c in courses],
        "share_of_wall": round(float(np.median(wall)), 3),
        "share_of_cpu": round(float(np.median(cpu)), 3),
        "machine": machine.describe(),
    }


def main() -> None:
    """Run the arms of each workload and merge their rows into the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", nargs="+", choices=sorted(WORKLOADS), default=["digits"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, help="in place of the workload's own")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    given = parser.parse_args()
    arms = {arm: ARMS[arm] for arm in ("all a", *given.arms)}
    for name in given.workload:
        load = WORKLOADS[name]
        courses: dict[str, list[Course]] = {arm: [] for arm in arms}
        for seed in range(given.seeds):
            for arm, setting in arms.items():
                course = run(load, setting, seed, given.rounds or load.rounds)
                courses[arm].append(course)
                print(name, seed, arm, *(f"{v:.4f}" for v in course), flush=True)
        base = courses["all a"]
        rounds = {"rounds": given.rounds or load.rounds}
        rows = [row_of(name, arm, own, base) | rounds for arm, own in courses.items()]
        for row in rows:
            print({k: v for k, v in row.items() if k != "machine"})
        records.merge(RESULT, rows, ("workload", "arm", "rounds"))


if __name__ == "__main__":
    main()
