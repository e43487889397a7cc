"""Digits with conflicting clients: some call every digit c by 9 - c (held out as a heterogeneity).

The ridge task over an IID partition; a tenth, a third or half of the clients have their labels
swapped, and the objective is over all of them. Reference and floor are the minimum of the same
task without swaps: what a model reaches where clients agree. With half of them swapped the best
common model stays far above it. Truth: from the run's own later course (`digits_rule`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optax

from fedjax_sim.algorithms.fedavg import fedavg
from verdict_suite.digits_common import (
    CLIENTS,
    federation,
    labelled,
    softmax_ridge,
    swapped,
    train,
)
from verdict_suite.suite import HELD_OUT, Family, LabelledRun

RATES = (0.0005, 0.02, 0.1, 0.3, 0.7, 1.2, 250.0)
SHARES = (0.05, 0.3, 0.5)
WAYS = ((CLIENTS, 1), (5, 1))  # cohort, local epochs


def draws(cohort: int) -> list[dict[str, Any]]:
    """Shares times rates."""
    rng = np.random.default_rng([19, cohort])
    out: list[dict[str, Any]] = []
    for share in SHARES:
        for rate in RATES:
            short = len(out) % 10 == 9
            rounds = int(rng.choice([5, 8, 14, 24]) if short else rng.choice([40, 60, 90]))
            out.append({"partition": "iid", "share": share, "cohort": cohort,
                        "rate": rate * float(rng.uniform(0.85, 1.2)), "rounds": rounds,
                        "seed": int(rng.integers(1 << 30))})  # fmt: skip
    return out


def make(quick: bool) -> list[LabelledRun]:
    """The runs; none are quick."""
    if quick:
        return []
    problem, blocks = softmax_ridge(), []
    for cohort, epochs in WAYS:
        given = draws(cohort)
        recipe = fedavg(lambda lr: optax.sgd(lr), lr=0.1, epochs=epochs, batch_size=20)
        each = [swapped(federation("iid"), p["share"]) for p in given]
        hyper = {"lr": [p["rate"] for p in given]}
        blocks.append((given, train(recipe, problem, given, each, hyper, cohort=cohort)))
    return labelled("digits_swapped", HELD_OUT, problem, blocks)


FAMILY = Family("digits_swapped", HELD_OUT, make, cheap=False)
