"""Digits, FedAvg on the ridge task: IID and Dirichlet (tuning), shards (a held-out skew).

20 clients, all of them with one epoch or 5 of them with five, batches of 20; rates from far too
low to far too high. Truth: the common rule, borne out by the later course (`digits_rule`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optax

from fedjax_sim.algorithms.fedavg import fedavg
from verdict_suite.digits_common import CLIENTS, federation, labelled, softmax_ridge, train
from verdict_suite.suite import HELD_OUT, TUNING, Family, LabelledRun

RATES = (0.0002, 0.001, 0.008, 0.03, 0.08, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 250.0)
WAYS = ((CLIENTS, 1), (5, 5))  # cohort, local epochs


def draws(partitions: tuple[str, ...], cohort: int, seeds: int) -> list[dict[str, Any]]:
    """Partitions times rates times seeds."""
    rng = np.random.default_rng([17, cohort, len(partitions)])
    out: list[dict[str, Any]] = []
    for name in partitions:
        for rate in RATES * seeds:
            short = len(out) % 8 == 7
            rounds = int(rng.choice([5, 8, 14, 24]) if short else rng.choice([40, 60, 90]))
            out.append({"partition": name, "rate": rate * float(rng.uniform(0.8, 1.25)),
                        "cohort": cohort, "rounds": rounds,
                        "seed": int(rng.integers(1 << 30))})  # fmt: skip
    return out


def _make(
    name: str, split: str, partitions: tuple[str, ...], seeds: int, quick: bool
) -> list[LabelledRun]:
    if quick:
        return []
    problem, blocks = softmax_ridge(), []
    for cohort, epochs in WAYS:
        given = draws(partitions, cohort, seeds)
        recipe = fedavg(lambda lr: optax.sgd(lr), lr=0.1, epochs=epochs, batch_size=20)
        each = [federation(p["partition"]) for p in given]
        hyper = {"lr": [p["rate"] for p in given]}
        blocks.append((given, train(recipe, problem, given, each, hyper, cohort=cohort)))
    return labelled(name, split, problem, blocks)


SKEWS = ("iid", "dirichlet_0.3", "dirichlet_0.1")
FAMILY = Family(
    "digits_fedavg", TUNING, lambda quick: _make("digits_fedavg", TUNING, SKEWS, 1, quick), False
)
SHARDS = Family(
    "digits_shards", HELD_OUT,
    lambda quick: _make("digits_shards", HELD_OUT, ("shards",), 2, quick), False,
)  # fmt: skip
