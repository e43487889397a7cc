"""Every algorithm of the registry on the same two federations, three seeds.

    python benchmarks/algorithms/catalogue.py [--only NAME ...] [--data digits mnist] [--seeds 3]

Digits: 20 clients, labels by Dirichlet(0.3), a quarter of each client's examples for its test.
MNIST: 50 clients of 300 examples and two classes each, a quarter for the test. A network of 64
(100) hidden units; 10 clients a round, 2 epochs of batches of 10, SGD at 0.1, 60 rounds; every
algorithm at its default parameters, none tuned. The federation is the same for all seeds, which
draw model, cohorts and shuffles.

Shown: accuracy on the clients' own test examples, each with the model it would use (mean over
clients, and the tenth percentile), and of the shared model on the central test set where one is
shared; means of the last three evaluations, over seeds.

Predicted: on label-skewed data everything that ends in a model of one's own beats one shared
model on the clients' own tests, by 10 points and more where a client has two classes;
corrections against drift are within two points of FedAvg with two epochs; adaptive servers at
default rates are slower here.

Seen: with two classes a client, models of one's own are 9 to 11 points above the shared ones; on
digits, where clients are small and skew is mild, it is the other way round, and what shares most
wins. SCAFFOLD, FedDyn and FedACG gain 4 to 5 points on MNIST, and so do adaptive servers (3), which
we had thought slower; FedLin and Mime diverge there at this rate, and learn at a lower one.

Writes benchmarks/results/algorithms.json, from which docs/algorithms.md takes its figures.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.experiment import config
from fedjax_sim.experiment.build import Built, build, federation
from fedjax_sim.experiment.session import Session

RESULT = RESULTS / "algorithms.json"
ROUNDS, EVERY = 60, 5
_COMMON = {
    "client.epochs": 2,
    "client.batch_size": 10,
    "client.learning_rate": 0.1,
    "run.rounds": ROUNDS,
    "run.cohort": 10,
    "run.eval_every": EVERY,
    "run.checkpoint_every": 0,
    "data.test_fraction": 0.25,
    "diagnosis.verdict": False,
    "diagnosis.drift_every": 0,
    "plan.devices": 1,
}
FEDERATIONS: dict[str, dict[str, Any]] = {
    "digits": {"data.partition.clients": 20, "model.widths": [64]},
    "mnist": {
        "data.name": "mnist",
        "data.partition.name": "shards",
        "data.partition.clients": 50,
        "data.partition.per_client": 2,
        "model.widths": [100],
    },
}
# What an algorithm cannot do without.
_NEEDS: dict[str, dict[str, Any]] = {
    "fedbn": {"model.norm": "batch"},
    "depthfl": {"model.widths": [64, 64, 64]},
}
_BATCHES = ("client.epochs", "client.batch_size")


def experiment(name: str, data: str, seed: int) -> Any:
    """The experiment of one run."""
    values = _COMMON | FEDERATIONS[data] | {"algorithm.name": name, "run.seed": seed}
    values |= _NEEDS.get(name, {})
    if not ALGORITHMS[name].batches:
        values = {k: v for k, v in values.items() if k not in _BATCHES}
    return config.resolve(config.read(None), config.overrides_table(values))


def measured(built: Built) -> dict[str, Any]:
    """Accuracies of one run, and its seconds."""
    session = Session(built.recipe, built.task, built.federation, built.settings)
    start = time.perf_counter()
    result = session.run()
    seconds = time.perf_counter() - start
    evaluated = [r for r in result.records if "client_accuracy_mean" in r][-3:]
    row: dict[str, Any] = {"status": result.status, "seconds": round(seconds, 2)}
    kinds = {"client": "client_accuracy_mean", "p10": "client_accuracy_p10"}
    for short, field in (kinds | {"shared": "test_accuracy"}).items():
        values = [r[field] for r in evaluated if r.get(field) is not None]
        if values:
            row[short] = float(np.mean(values))
    return row


def rows_of(name: str, data: str, seeds: int, fed: Federation) -> list[Row]:
    """One algorithm, all seeds; the second seed compiles nothing where a cache is set."""
    rows = []
    for seed in range(seeds):
        facts = {"algorithm": name, "data": data, "seed": seed, "rounds": ROUNDS}
        facts |= measured(build(experiment(name, data, seed), fed))
        rows.append(facts | {"machine": describe()})
    told = {k: [round(100 * r[k], 1) for r in rows if k in r] for k in ("client", "p10", "shared")}
    print(f"{data:7} {name:20} {told} {rows[-1]['status']} {rows[-1]['seconds']} s", flush=True)
    return rows


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(ALGORITHMS))
    parser.add_argument("--data", nargs="+", default=list(FEDERATIONS), choices=list(FEDERATIONS))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    for data in given.data:
        fed = federation(experiment("fedavg", data, 0))
        if data == "mnist":
            fed = smaller(fed, 300)
        for name in given.only or ALGORITHMS:
            try:
                merge(RESULT, rows_of(name, data, given.seeds, fed), ("algorithm", "data", "seed"))
            except InputError as error:
                print(f"{data:7} {name:20} refused: {error}", flush=True)
            jax.clear_caches()


def smaller(fed: Federation, size: int) -> Federation:
    """The federation with at most `size` training and a third as many test examples a client."""

    def cut(shards: Shards, most: int) -> Shards:
        sizes = np.minimum(shards.sizes, most)
        x, y = dataclasses.replace(shards, sizes=sizes).in_order()
        return Shards(x, y, np.cumsum(sizes) - sizes, sizes)

    return dataclasses.replace(fed, train=cut(fed.train, size), test=cut(fed.test, size // 3))


if __name__ == "__main__":
    main()
