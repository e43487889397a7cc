"""Stochastic gradients and partial cohorts: a noise ball whose height is known.

20 clients with 10 examples of targets each in 64 dimensions, `F(x) = mean 1/2 |x - y|^2`; a round
asks K clients, each of which takes one step of rate eta on one example drawn at random. So
`x <- x + eta (Y - x)`, with Y the mean of K random targets of variance V in each coordinate
(drawn without replacement over clients), and the expected excess is

    e_t = (1 - eta)^(2t) e_0 + 1/2 sum V eta / (2 - eta) (1 - (1 - eta)^(2t)).

The record of round t+1 shows `F* + e_t` with noise; the floor is F*, the variance of the targets.
Small balls are `converged`, large ones `stagnating`; a rate that is too small for the number of
rounds is `converging`, or, where the noise hides it, `too early to say`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.core.types import Model
from fedjax_sim.tasks.quadratic import quadratic
from verdict_suite.rules import Course
from verdict_suite.runner import columns_of, shards, simulate
from verdict_suite.suite import TUNING, Family, LabelledRun, label, records_of

DIM, CLIENTS, EACH = 64, 20, 10
COHORTS = (2, 5, 20)
# (rate, start over the targets' deviation, rounds)
BALLS = (
    *((rate, s, n) for rate in (0.1, 0.2, 0.4) for s in (0.3, 0.45, 1.5, 3.0) for n in (60, 150)),
    *((rate, s, n) for rate in (0.8, 1.3) for s in (0.5, 0.8, 2.5, 5.0) for n in (50, 100)),
)
SLOW = tuple(
    (rate, s, n) for rate in (0.002, 0.005, 0.01, 0.02) for s in (1.0, 3) for n in (60, 150)
)
HIDDEN = tuple((rate, s, n) for rate in (1e-4, 5e-4, 2e-3) for s in (0.3, 1.0)
               for n in (12, 18, 27))  # fmt: skip
BRIEF = tuple((rate, 1.0, n) for rate in (0.02, 0.3) for n in (5, 8))


def draws(cohort: int, quick: bool) -> list[dict[str, Any]]:
    """The settings of one cohort size."""
    rng = np.random.default_rng([6, cohort])
    given = [
        {"rate": rate * float(rng.uniform(0.9, 1.1)), "distance": s, "rounds": n,
         "cohort": cohort, "seed": int(rng.integers(1 << 30))}
        for rate, s, n in (*BALLS, *SLOW, *HIDDEN, *BRIEF)
    ]  # fmt: skip
    return given[::12] if quick else given


def targets(seed: int) -> np.ndarray:
    """`[clients * each, DIM]`: clients differ by 0.5, examples within them by 1."""
    rng = np.random.default_rng(seed)
    centres = 0.5 * rng.normal(size=(CLIENTS, 1, DIM))
    return (centres + rng.normal(size=(CLIENTS, EACH, DIM))).reshape(-1, DIM)


def start_of(params: dict[str, Any], y: np.ndarray) -> np.ndarray:
    """A start at `distance` from the optimum in every coordinate."""
    signs = np.sign(np.random.default_rng([params["seed"], 1]).normal(size=DIM))
    return y.mean(0) + params["distance"] * signs


def variance(y: np.ndarray, cohort: int) -> float:
    """Sum over coordinates of the variance of a round's mean target."""
    groups = y.reshape(CLIENTS, EACH, DIM)
    within = groups.var(axis=1).mean(0)
    between = groups.mean(1).var(axis=0)
    finite = (CLIENTS - cohort) / (CLIENTS - 1)
    return float(np.sum(within / cohort + between / cohort * finite))


def excess(params: dict[str, Any], rounds: int) -> np.ndarray:
    """The closed form of the expected excess, `[rounds]`."""
    y = targets(params["seed"])
    first = 0.5 * float(np.sum((start_of(params, y) - y.mean(0)) ** 2))
    eta, t = params["rate"], np.arange(rounds)
    kept = (1 - eta) ** (2 * t)
    ball = 0.5 * variance(y, params["cohort"]) * eta / (2 - eta)
    return kept * first + (1 - kept) * ball


def make(quick: bool) -> list[LabelledRun]:
    """The runs."""
    runs: list[LabelledRun] = []
    for cohort in COHORTS[:1] if quick else COHORTS:
        given = draws(cohort, quick)
        y = np.stack([targets(p["seed"]) for p in given])
        starts = np.stack([start_of(p, t) for p, t in zip(given, y, strict=True)])
        longest = max(p["rounds"] for p in given)
        columns = simulate(
            fedavg(lambda lr: optax.sgd(lr), lr=0.1, steps=1, batch_size=1),
            quadratic(DIM), shards(np.ones_like(y), y, CLIENTS),
            Model({"x": jnp.asarray(starts, float)}), rounds=longest, cohort=cohort,
            seeds=[p["seed"] for p in given], hyper={"lr": [p["rate"] for p in given]},
        )  # fmt: skip
        for i, params in enumerate(given):
            floor = 0.5 * float(np.sum(y[i].var(axis=0)))
            e = excess(params, longest)
            course = Course(e, float(e[0]), seen=columns["train_loss"][i] - floor)
            records = records_of(columns_of(columns, i), params["rounds"])
            runs.append(label("sgd_noise", TUNING, params, course, records, floor))
    return runs


FAMILY = Family("sgd_noise", TUNING, make)
