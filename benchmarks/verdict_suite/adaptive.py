"""Adaptive server optimizers on quadratics: FedAdagrad (tuning), FedAdam and FedYogi (held out).

The problem of `quadratics`, the clients report one local step of rate 1 (the gradient), the server
steps with Adagrad, Adam or Yogi. No closed form: the course is the run's own objective, which is
exact and without noise, evaluated by the engine before each round (`train_loss`), floor 0; the
test suite makes it again in NumPy. A run counts as unbounded when it is not finite after three
times its rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optax

from fedjax_sim.algorithms.fedavg import fedadagrad, fedadam, fedyogi
from fedjax_sim.tasks.quadratic import quadratic
from verdict_suite.quadratics import DIM, problem
from verdict_suite.rules import Course
from verdict_suite.runner import columns_of, simulate
from verdict_suite.suite import HELD_OUT, TUNING, Family, LabelledRun, label, records_of

RATES = {
    "fedadagrad": (0.01, 0.05, 0.2, 0.5, 1.0, 3.0),
    "fedadam": (0.0003, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "fedyogi": (0.0003, 0.01, 0.1, 0.3, 1.0, 3.0),
}
SEEDS = {"fedadagrad": 13, "fedadam": 14, "fedyogi": 15}


def draws(name: str, quick: bool) -> list[dict[str, Any]]:
    """Rates times conditions, each with its own start and length."""
    rng = np.random.default_rng(SEEDS[name])
    out: list[dict[str, Any]] = []
    for rate in RATES[name]:
        for condition in (2, 10, 100, 2, 10):
            rounds = int(rng.integers(4, 10) if len(out) % 9 == 8 else rng.choice([50, 100, 200]))
            scale = float(rng.choice([0.3, 1.0, 3.0]))
            out.append({"optimizer": name, "rate": rate, "condition": condition, "rounds": rounds,
                        "start": (scale * rng.normal(size=DIM)).tolist()})  # fmt: skip
    return out[::7] if quick else out


def _make(name: str, split: str, recipe: Callable[..., Any], quick: bool) -> list[LabelledRun]:
    given = draws(name, quick)
    data, starts = problem(given)
    longest = max(p["rounds"] for p in given)
    columns = simulate(
        recipe(optax.sgd(1.0), server_rate=0.1, steps=1, batch_size=1), quadratic(DIM), data,
        starts, rounds=3 * longest, seeds=np.arange(len(given)),
        hyper={"server_rate": [p["rate"] for p in given]},
    )  # fmt: skip
    runs: list[LabelledRun] = []
    for i, params in enumerate(given):
        e = columns["train_loss"][i]
        course = Course(e, float(e[0]), unbounded=not np.isfinite(e).all())
        records = records_of(columns_of(columns, i), params["rounds"])
        runs.append(label(name, split, params, course, records, 0.0))
    return runs


ADAGRAD = Family("fedadagrad", TUNING, lambda quick: _make("fedadagrad", TUNING, fedadagrad, quick))
ADAM = Family("fedadam", HELD_OUT, lambda quick: _make("fedadam", HELD_OUT, fedadam, quick))
YOGI = Family("fedyogi", HELD_OUT, lambda quick: _make("fedyogi", HELD_OUT, fedyogi, quick))
