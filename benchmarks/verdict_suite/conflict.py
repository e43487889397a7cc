"""Clients that want different things: half pull to +b, the others to -b, on quadratics.

`f_i(x) = 1/2 sum_j a_j (x_j - s_i b_j)^2`, a share of the six clients with s = -1, one exact
gradient a round. Each client alone could reach 0, which is the floor that a user knows; together
they end at F* > 0. The excess is therefore F itself: the plateau's height against the start is
known, `F* / F(x_0)`. High plateaus are `stagnating`, low ones (starts from far) `converged`.
Course: the closed form; the record of round t+1 shows `F(x_t)`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.core.types import Model
from fedjax_sim.tasks.quadratic import quadratic
from verdict_suite.rules import Course
from verdict_suite.runner import columns_of, shards, simulate
from verdict_suite.suite import TUNING, Family, LabelledRun, label, records_of

DIM, CLIENTS = 4, 6
SHARES = (0.005, 0.02, 0.035, 0.25, 0.4, 0.6, 0.8)


def draws(quick: bool) -> list[dict[str, Any]]:
    """Plateaus from 0.5 % to 80 % of the start, one to three clients against the others."""
    rng = np.random.default_rng(9)
    out: list[dict[str, Any]] = []
    for share in SHARES:
        for against in (1, 2, 3):
            for rate in (0.08, 0.3):
                out.append({"share": share, "against": against, "rate": rate,
                            "rounds": int(rng.choice([40, 80, 150])),
                            "seed": int(rng.integers(1 << 30))})  # fmt: skip
    return out[::10] if quick else out


def problem(params: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Curvature `[d]`, targets `[N, d]`, start `[d]`."""
    rng = np.random.default_rng(params["seed"])
    a = rng.uniform(0.4, 1.0, DIM)
    side = np.where(np.arange(CLIENTS) < params["against"], -1.0, 1.0)
    b = side[:, None] * (1 + rng.uniform(0, 1, DIM))
    ground = lowest(a, b)
    direction = rng.normal(size=DIM)
    far = ground * (1 / params["share"] - 1) / (0.5 * np.sum(a * direction**2))
    return a, b, b.mean(0) + np.sqrt(far) * direction


def lowest(a: np.ndarray, b: np.ndarray) -> float:
    """F*."""
    return 0.5 * float(np.sum(a * b.var(axis=0)))


def excess(params: dict[str, Any], rounds: int) -> np.ndarray:
    """The closed form of F before each round, `[rounds]`."""
    a, b, x = problem(params)
    kept = (1 - params["rate"] * a) ** (2 * np.arange(rounds)[:, None])
    return 0.5 * np.sum(a * kept * (x - b.mean(0)) ** 2, axis=1) + lowest(a, b)


def make(quick: bool) -> list[LabelledRun]:
    """The runs."""
    given = draws(quick)
    made = [problem(p) for p in given]
    a = np.stack([np.tile(m[0], (CLIENTS, 1)) for m in made])
    b, start = (np.stack([m[i] for m in made]) for i in (1, 2))
    longest = max(p["rounds"] for p in given)
    columns = simulate(
        fedsgd(lambda lr: optax.sgd(lr), lr=0.1), quadratic(DIM), shards(a, b, CLIENTS),
        Model({"x": jnp.asarray(start, float)}), rounds=longest, seeds=np.arange(len(given)),
        hyper={"lr": [p["rate"] for p in given]},
    )  # fmt: skip
    runs: list[LabelledRun] = []
    for i, params in enumerate(given):
        e = excess(params, longest)
        records = records_of(columns_of(columns, i), params["rounds"])
        course = Course(e, float(e[0]))
        runs.append(label("conflict", TUNING, params, course, records, 0.0))
    return runs


FAMILY = Family("conflict", TUNING, make)
