"""Digits, Adam at the server on the ridge task (held out as an optimizer).

IID and Dirichlet(0.3), 10 of 20 clients a round, one epoch at a client rate of 0.1; server rates
from far too low to far too high. Truth: from the run's own later course (`digits_rule`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optax

from fedjax_sim.algorithms.fedavg import fedadam
from verdict_suite.digits_common import federation, labelled, softmax_ridge, train
from verdict_suite.suite import HELD_OUT, Family, LabelledRun

RATES = (0.0001, 0.0005, 0.003, 0.01, 0.03, 0.08, 0.2, 0.6)
COHORT = 10


def draws() -> list[dict[str, Any]]:
    """Partitions times server rates."""
    rng = np.random.default_rng(20)
    out: list[dict[str, Any]] = []
    for name in ("iid", "dirichlet_0.3"):
        for rate in RATES * 2:
            short = len(out) % 9 == 8
            rounds = int(rng.choice([5, 8, 14, 24]) if short else rng.choice([40, 60, 90]))
            out.append({"partition": name, "rate": rate * float(rng.uniform(0.8, 1.25)),
                        "cohort": COHORT, "rounds": rounds,
                        "seed": int(rng.integers(1 << 30))})  # fmt: skip
    return out


def make(quick: bool) -> list[LabelledRun]:
    """The runs; none are quick."""
    if quick:
        return []
    problem, given = softmax_ridge(), draws()
    recipe = fedadam(optax.sgd(0.1), server_rate=0.01, epochs=1, batch_size=20)
    each = [federation(p["partition"]) for p in given]
    hyper = {"server_rate": [p["rate"] for p in given]}
    block = (given, train(recipe, problem, given, each, hyper, cohort=COHORT))
    return labelled("digits_fedadam", HELD_OUT, problem, [block])


FAMILY = Family("digits_fedadam", HELD_OUT, make, cheap=False)
