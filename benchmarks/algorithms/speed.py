"""What does a round of each stateless algorithm cost, beside FedAvg's?

    python benchmarks/algorithms/speed.py [--only NAME ...] [--pairs 40]

The bundled digits (20 clients, 10 a round, two hidden layers of 200 units, 2 epochs of batches of
10, plain SGD, one lane on one device), evaluation left out: rounds of the algorithm and of FedAvg
in turn in one process, an eighth of a second each, and the median over pairs of the ratio of
their times. `passes` is what the
algorithm computes of gradients in a round, FedAvg's two epochs being 1, a forward pass a third of
a gradient; the bar is 1.15 x `passes`. Where parts of a model are trained `passes` is left at 1;
DepthFL is beside FedAvg of its own model, layers with exits.

Predicted: what changes weights, servers or losses alone is within 1.05; what adds a vector of the
model's size to every step (mimelite, fedcm, fedlin) pays 1.2 to 1.6 beyond its passes on a model as
small as this, for its steps are bound by the memory's bandwidth and not by products.

Seen, after steps came to write in place, which made FedAvg's own round a tenth shorter (decision
0013): weights, servers and losses as predicted (.94 to 1.10, the median 3.7 until it was sorted by
a network, 1.05 since); FedCM 1.11 (1.49 while it measured the rate that plain SGD states), FedLin
1.12, Mime 1.42 and MimeLite 1.64 for their 1.25 and 1.5 passes, LoRA .95 (1.66 while it merged its
kernels).

Seen again on another machine (an Intel one of half the speed; each row says which) after choices by
a step's number came out of the loop (decision 0014): those that measure a loss first 1.16 to 1.26
for 1.17 passes (q-FedAvg 1.47 before, in turn), `grouped` 1.08 since it sketches only what is
looked at.

On that machine, in turn with the commit before (scratch runs; the record has the last): CFL 1.19 to
1.24 before, 1.06 to 1.09 since a split is a loop of one turn or none and clients are judged at a
fork only where there are any; FedLin 1.37 to 1.43 before, 1.18 to 1.25 since its second phase does
not begin anew; Mime 1.48 before, 1.39.
FedLin's bar is missed there: to read one more tree of the model's size makes a step's update take
31 microseconds in place of 12 (by the profiler, which adds some), beside 150 of the whole step.
Batches of 16 to 125 in its measuring pass make a difference of 3 %.

Writes benchmarks/results/algorithm_speed.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import describe
from records import RESULTS, Row, merge

from fedjax_sim.algorithms.registry import ALGORITHMS
from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import config
from fedjax_sim.experiment.build import build, federation
from fedjax_sim.experiment.dispatch import Dispatch
from fedjax_sim.experiment.prepare import prepare

RESULT = RESULTS / "algorithm_speed.json"
BAR, CHUNK, EPOCHS = 1.15, 4, 2
TURN_S = 0.125
FORWARD = 1 / 3
# Epochs of gradients in a round beside those of the local steps; an average over two rounds where
# a step of the model takes two.
_MORE = {
    "fedsgd": 1 - EPOCHS,
    "negative_curvature": 1 + 2 - EPOCHS,  # a gradient, and a Hessian times a vector
    "qfedavg": FORWARD,
    "term": FORWARD,
    "afl": FORWARD,
    "mimelite": 1,
    "mime": (1 + 2 * EPOCHS) / 2 - EPOCHS,
    "fedlin": (1 + 1 + EPOCHS) / 2 - EPOCHS,
    "fedntd": FORWARD * EPOCHS,
    "perfedavg": EPOCHS,
}
# Learners of another kind: all examples, or work at the server.
_OTHER = {"centralized", "feddf", "fedamp", "fedfomo"}
_VALUES: dict[str, Any] = {
    "client.epochs": EPOCHS,
    "client.batch_size": 10,
    "client.learning_rate": 0.01,
    "run.rounds": 10**6,
    "run.cohort": 10,
    "run.eval_every": 10**6,
    "run.checkpoint_every": 0,
    "data.partition.clients": 20,
    "diagnosis.verdict": False,
    "diagnosis.drift_every": 0,
    "plan.devices": 1,
    "plan.lanes": 1,
}


_MODELS = {"depthfl": {"model.name": "mlp_exits"}}
"""Models that an algorithm needs, and so has FedAvg beside it."""


def compiled(name: str, fed: Any, model: dict[str, Any] | None = None) -> tuple[Dispatch, Any]:
    """The algorithm's program, and its first state."""
    values = _VALUES | {"algorithm.name": name} | (model or {})
    if not ALGORITHMS[name].batches:
        values = {
            k: v for k, v in values.items() if k not in ("client.epochs", "client.batch_size")
        }
    asked = config.resolve(config.read(None), config.overrides_table(values))
    built = build(asked, fed)
    settings = dataclasses.replace(built.settings, chunk=CHUNK)
    dispatch = Dispatch(prepare(built.recipe, built.task, built.federation, settings))
    dispatch.compile()
    return dispatch, dispatch.first_state()


class Side:
    """One algorithm, warm."""

    def __init__(self, name: str, fed: Any, model: dict[str, Any] | None = None) -> None:
        self._dispatch, self._state = compiled(name, fed, model)
        self.stateless = not jax.tree.leaves(self._dispatch.shapes.rows)
        self.run(1)

    def run(self, chunks: int) -> float:
        """Seconds of so many chunks."""
        began = time.perf_counter()
        for _ in range(chunks):
            self._state, _ = self._dispatch(self._state, CHUNK)
        jax.block_until_ready(self._state)
        return time.perf_counter() - began


def measured(name: str, base: Side, fed: Any, pairs: int) -> Row | None:
    """One algorithm's row; None where clients keep state."""
    model = _MODELS.get(name)
    mine = Side(name, fed, model)
    if not mine.stateless:
        return None
    base = base if model is None else Side("fedavg", fed, model)
    chunks = max(1, round(TURN_S / mine.run(4) * 4))
    timed = [(mine.run(chunks), base.run(chunks)) for _ in range(pairs)]
    ratios = [a / b for a, b in timed]
    passes = None if name in _OTHER else round(1 + _MORE.get(name, 0) / EPOCHS, 3)
    ratio = round(float(np.median(ratios)), 3)
    return {
        "algorithm": name,
        "ratio": ratio,
        "quartiles": np.round(np.percentile(ratios, [25, 75]), 3).tolist(),
        "passes": passes,
        "ms_a_round": round(1e3 * float(np.median([a for a, _ in timed])) / chunks / CHUNK, 3),
        "met": None if passes is None else ratio <= BAR * passes,
        "load": os.getloadavg()[0],
        "machine": describe(),
    }


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(ALGORITHMS))
    parser.add_argument("--pairs", type=int, default=40)
    given = parser.parse_args()
    fed = federation(config.resolve(config.read(None), config.overrides_table(_VALUES)))
    base = Side("fedavg", fed)
    for name in given.only or ALGORITHMS:
        try:
            row = measured(name, base, fed, given.pairs)
        except InputError as error:
            print(f"{name:20} refused: {error}", flush=True)
            continue
        if row is None:
            continue
        verdict = {None: "-", True: "met", False: "MISSED"}[row["met"]]
        spread = "{} to {}".format(*row["quartiles"])
        told = f"{name:20} x {row['ratio']:.3f} ({spread}) passes {row['passes']} {verdict}"
        print(told, flush=True)
        merge(RESULT, [row], ("algorithm",))


if __name__ == "__main__":
    main()
