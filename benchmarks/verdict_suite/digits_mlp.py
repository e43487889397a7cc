"""Digits, FedAvg on an MLP of one hidden layer (held out as a task).

IID and Dirichlet(0.1), all 20 clients with one epoch or 5 of them with five; rates from far too low
to far too high. Cross entropy without a ridge is known to be >= 0, which is the floor; the
reference is the lowest objective that any run of this family reaches in its whole course. Truth:
from the run's own later course (`digits_rule`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optax

from fedjax_sim.algorithms.fedavg import fedavg
from verdict_suite.digits_common import CLIENTS, federation, labelled, small_mlp, train
from verdict_suite.suite import HELD_OUT, Family, LabelledRun

RATES = (0.0001, 0.0003, 0.001, 0.005, 0.02, 0.06, 0.15, 0.3, 0.6, 1.2, 3.0)
WAYS = ((CLIENTS, 1), (5, 5))  # cohort, local epochs


def draws(cohort: int) -> list[dict[str, Any]]:
    """Partitions times rates."""
    rng = np.random.default_rng([18, cohort])
    out: list[dict[str, Any]] = []
    for name in ("iid", "dirichlet_0.1"):
        for rate in RATES:
            short = len(out) % 9 == 8
            rounds = int(rng.choice([5, 8, 18, 26]) if short else rng.choice([40, 60, 90]))
            out.append({"partition": name, "rate": rate * float(rng.uniform(0.8, 1.25)),
                        "cohort": cohort, "rounds": rounds,
                        "seed": int(rng.integers(1 << 30))})  # fmt: skip
    return out


def make(quick: bool) -> list[LabelledRun]:
    """The runs; none are quick."""
    if quick:
        return []
    problem, blocks = small_mlp(), []
    for cohort, epochs in WAYS:
        given = draws(cohort)
        recipe = fedavg(lambda lr: optax.sgd(lr), lr=0.1, epochs=epochs, batch_size=20)
        each = [federation(p["partition"]) for p in given]
        hyper = {"lr": [p["rate"] for p in given]}
        blocks.append((given, train(recipe, problem, given, each, hyper, cohort=cohort)))
    return labelled("digits_mlp", HELD_OUT, problem, blocks)


FAMILY = Family("digits_mlp", HELD_OUT, make, cheap=False)
