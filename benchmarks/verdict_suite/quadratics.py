"""Plain gradient descent on quadratics: rates below, near and above 2/L, condition 2 to 1000.

`F(x) = 1/2 sum_j a_j x_j^2`, four clients that hold the same problem, one exact gradient a round
(`fedsgd`): `x_j <- (1 - eta a_j) x_j`, so `e_t = 1/2 sum_j a_j (1 - eta a_j)^(2t) x_j(0)^2`, which
is what the record of round t+1 shows. The floor is 0. Unbounded where `eta L > 2`.

Left out besides: a flat, high plateau more than 30 % of which lies in directions that change sign
in every step (`eta a > 1`): the loss stands still, the iterates alternate at the edge of 2/L, and
`stagnating` and `oscillating` are both fair.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.core.types import Model
from fedjax_sim.tasks.quadratic import quadratic
from verdict_suite.rules import STAGNATING, Course
from verdict_suite.runner import columns_of, shards, simulate
from verdict_suite.suite import TUNING, Family, LabelledRun, label, records_of

DIM, CLIENTS = 8, 4
CONDITIONS = (2, 10, 100, 1000)
FACTORS = (0.001, 0.004, 0.02, 0.1, 0.3, 0.8, 1.3, 1.8, 1.93, 1.97, 2.01, 2.02, 2.05, 2.2, 3.0)
ROUNDS = (40, 60, 100, 160, 250)


def spectrum(condition: float, dim: int = DIM) -> np.ndarray:
    """Curvatures from 1 down to `1 / condition`, evenly spaced in their logarithms, `[dim]`."""
    return np.logspace(0, -np.log10(condition), dim)


def draws(seed: int, quick: bool, factors: Any = FACTORS) -> list[dict[str, Any]]:
    """Conditions times rate factors, each with its own start and length."""
    rng = np.random.default_rng(seed)
    grid = [(c, f) for c in CONDITIONS for f in factors]
    grid = grid if quick else 2 * grid
    out: list[dict[str, Any]] = []
    for i, (condition, factor) in enumerate(grid):
        # Every fifth run is a short one.
        rounds = int(rng.integers(4, 10) if i % 5 == 4 else rng.choice(ROUNDS))
        lean = float(rng.choice([0.0, 0.5]))
        start = rng.normal(size=DIM) / spectrum(condition) ** lean
        out.append({"condition": condition, "rate": factor * rng.uniform(0.998, 1.002),
                    "rounds": rounds, "start": start.tolist()})  # fmt: skip
    return out[::6] if quick else out


def excess(params: dict[str, Any], rounds: int) -> np.ndarray:
    """The closed form, `[rounds]`."""
    a, x = spectrum(params["condition"]), np.asarray(params["start"])
    t = np.arange(rounds)[:, None]
    with np.errstate(over="ignore"):
        return 0.5 * np.sum(a * (1 - params["rate"] * a) ** (2 * t) * x**2, axis=1)


def problem(given: list[dict[str, Any]], clients: int = CLIENTS) -> tuple[Any, Model]:
    """`(data, starts)`: every client holds the run's spectrum and the target 0."""
    a = np.stack([spectrum(p["condition"]) for p in given])
    x = np.repeat(a[:, None, :], clients, axis=1)
    starts = Model({"x": jnp.asarray(np.stack([p["start"] for p in given]), float)})
    return shards(x, np.zeros_like(x), clients), starts


def make(quick: bool) -> list[LabelledRun]:
    """The runs."""
    given = draws(1, quick)
    data, starts = problem(given)
    longest = max(p["rounds"] for p in given)
    columns = simulate(
        fedsgd(lambda lr: optax.sgd(lr), lr=0.1), quadratic(DIM), data, starts,
        rounds=longest, seeds=np.arange(len(given)), hyper={"lr": [p["rate"] for p in given]},
    )  # fmt: skip
    runs: list[LabelledRun] = []
    for i, params in enumerate(given):
        e = excess(params, longest)
        course = Course(e, float(e[0]), unbounded=params["rate"] > 2)
        records = records_of(columns_of(columns, i), params["rounds"])
        veto = functools.partial(_alternates, params)
        runs.append(label("gd", TUNING, params, course, records, 0.0, veto=veto))
    return runs


def _alternates(params: dict[str, Any], verdict: str, rounds: int) -> bool:
    """Whether a plateau's excess lies in directions whose sign changes in every step."""
    a, x = spectrum(params["condition"]), np.asarray(params["start"])
    factor = 1 - params["rate"] * a
    each = a * factor ** (2 * (rounds - 1)) * x**2
    return verdict == STAGNATING and float(np.sum(each[factor < 0]) / np.sum(each)) > 0.3


FAMILY = Family("gd", TUNING, make)
