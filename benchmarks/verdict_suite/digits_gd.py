"""Digits, one exact gradient a round: plain descent and momentum on the ridge task (tuning).

Nothing is random, so swings are swings: above 2/L (L = 0.92 at the optimum) plain descent goes
round a cycle, above 2/ridge = 200 it diverges; momentum near 1 swings for long. Truth: the common
rule on the exact objective, borne out by the later course (`digits_rule`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optax

from fedjax_sim.algorithms.fedsgd import fedsgd
from verdict_suite.digits_common import CLIENTS, federation, labelled, softmax_ridge, train
from verdict_suite.suite import TUNING, Family, LabelledRun

RATES = (0.0005, 0.001, 0.004, 0.02, 0.1, 0.2, 0.5, 1.2, 2.0, 2.4, 2.6, 3.0, 5.0, 230.0, 300.0)
BETAS = (0.0, 0.9, 0.98)


def draws() -> list[dict[str, Any]]:
    """Rates times momenta."""
    rng = np.random.default_rng(16)
    out: list[dict[str, Any]] = []
    for beta in BETAS:
        for rate in RATES:
            rounds = int(rng.integers(4, 10) if len(out) % 11 == 10 else rng.choice([40, 60, 90]))
            out.append({"rate": rate, "beta": beta, "rounds": rounds, "seed": 0})
    return out


def make(quick: bool) -> list[LabelledRun]:
    """The runs; none are quick."""
    if quick:
        return []
    given, problem = draws(), softmax_ridge()
    hyper = {"lr": [p["rate"] for p in given], "beta": [p["beta"] for p in given]}
    recipe = fedsgd(lambda lr, beta: optax.sgd(lr, momentum=beta), lr=0.1, beta=0.0)
    everyone = [federation("iid")] * len(given)
    columns = train(recipe, problem, given, everyone, hyper, cohort=CLIENTS)
    return labelled("digits_gd", TUNING, problem, [(given, columns)], random=False)


FAMILY = Family("digits_gd", TUNING, make, cheap=False)
