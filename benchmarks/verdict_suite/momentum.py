"""Momentum on quadratics: heavy ball (tuning) and Nesterov (held out as an optimizer).

`F(x) = 1/2 sum_j a_j x_j^2`, one exact gradient a round. Heavy ball: `v <- beta v + g; x <- x -
eta v`; with complex roots, `(1 - sqrt beta)^2 < eta a < (1 + sqrt beta)^2`, a mode turns about the
optimum and its excess shrinks by beta a round, so that beta near 1 hardly damps. Unbounded where
`eta L > 2 (1 + beta)`. Nesterov: `v <- beta v + g; x <- x - eta (g + beta v)`; unbounded where
`eta L > (2 + 2 beta) / (1 + 2 beta)`. The course is the recursion itself in float64, mode by mode;
the record of round t+1 shows `e_t`; the floor is 0. Left out besides: plateaus whose largest mode
alternates in sign, as for plain descent.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.core.types import Model
from fedjax_sim.tasks.quadratic import quadratic
from verdict_suite.rules import STAGNATING, Course
from verdict_suite.runner import columns_of, shards, simulate
from verdict_suite.suite import HELD_OUT, TUNING, Family, LabelledRun, label, records_of

DIM, CLIENTS = 4, 4
BETAS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.995, 0.998, 0.999, 0.9997, 0.9997)
FACTORS = (0.002, 0.01, 0.04, 0.15, 0.6, 1.5)  # eta L
EDGES = (0.97, 1.01, 1.05, 1.2)  # of the largest stable eta L
SPREADS = ((1.0,), (1.0, 0.9), (1.0, 0.3, 0.1, 0.03))  # curvatures; the rest stand still
ROUNDS = (60, 100, 160, 250)


def edge(beta: float, nesterov: bool) -> float:
    """The largest stable `eta L`."""
    return (2 + 2 * beta) / (1 + 2 * beta) if nesterov else 2 * (1 + beta)


def draws(seed: int, nesterov: bool, quick: bool) -> list[dict[str, Any]]:
    """Every beta with every rate, each with its own spectrum, start and length."""
    rng = np.random.default_rng(seed)
    out: list[dict[str, Any]] = []
    for beta in BETAS:
        most = edge(beta, nesterov)
        for factor in (*(f for f in FACTORS if f < 0.9 * most), *(e * most for e in EDGES)):
            rounds = int(rng.integers(4, 10) if len(out) % 8 == 7 else rng.choice(ROUNDS))
            curvature = SPREADS[rng.choice(len(SPREADS), p=(0.5, 0.25, 0.25))]
            start = rng.normal(size=len(curvature)) + np.sign(rng.normal(size=len(curvature)))
            out.append({"beta": beta, "rate": factor, "rounds": rounds, "nesterov": nesterov,
                        "curvature": list(curvature), "start": start.tolist()})  # fmt: skip
    return out[::8] if quick else out


def excess(params: dict[str, Any], rounds: int) -> np.ndarray:
    """The recursion in float64, `[rounds]`."""
    a, x = np.asarray(params["curvature"]), np.asarray(params["start"])
    eta, beta, v, out = params["rate"], params["beta"], np.zeros(len(params["start"])), []
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(rounds):
            out.append(0.5 * float(np.sum(a * x**2)))
            v = beta * v + a * x
            x = x - eta * (a * x + beta * v if params["nesterov"] else v)
    return np.asarray(out)


def _make(name: str, split: str, seed: int, nesterov: bool, quick: bool) -> list[LabelledRun]:
    given = draws(seed, nesterov, quick)
    pad = lambda v: [*v, *[0.0] * (DIM - len(v))]  # noqa: E731
    a = np.repeat(np.array([pad(p["curvature"]) for p in given])[:, None], CLIENTS, axis=1)
    starts = Model({"x": jnp.asarray([pad(p["start"]) for p in given], float)})
    longest = max(p["rounds"] for p in given)

    def optimizer(lr: Any, beta: Any) -> optax.GradientTransformation:
        return optax.sgd(lr, momentum=beta, nesterov=nesterov)

    columns = simulate(
        fedsgd(optimizer, lr=0.1, beta=0.9), quadratic(DIM), shards(a, 0 * a, CLIENTS), starts,
        rounds=longest, seeds=np.arange(len(given)),
        hyper={"lr": [p["rate"] for p in given], "beta": [p["beta"] for p in given]},
    )  # fmt: skip
    runs: list[LabelledRun] = []
    for i, params in enumerate(given):
        e = excess(params, longest)
        unbounded = params["rate"] > edge(params["beta"], nesterov)
        course = Course(e, float(e[0]), unbounded=unbounded)
        records = records_of(columns_of(columns, i), params["rounds"])
        alternates = params["rate"] > 0.9 * edge(params["beta"], nesterov)

        def veto(verdict: str, rounds: int, alternates: bool = alternates) -> bool:
            del rounds
            return alternates and verdict == STAGNATING

        runs.append(label(name, split, params, course, records, 0.0, veto=veto))
    return runs


HEAVY_BALL = Family(
    "heavy_ball", TUNING, lambda quick: _make("heavy_ball", TUNING, 2, False, quick)
)
NESTEROV = Family("nesterov", HELD_OUT, lambda quick: _make("nesterov", HELD_OUT, 3, True, quick))
