"""Starts near a saddle: a double well (tuning) and a deep linear chain (held out as a task).

Double well: `F(x, y) = a x^2 / 2 + q (y^2 - 1)^2 / 4`, known to be >= 0 (floor 0). From a small
`y_0`, gradient descent stays on the plateau `F = q/4` until about `log(1/|y_0|) / log(1 + eta q)`
rounds have passed (PAPERS.md, section 1), then falls to 0.

Deep chain: `F(w) = (w_1 w_2 w_3 - 1)^2 / 2` plus `x^2 / 2`; the origin is a saddle without a
direction of negative curvature, left more slowly than any exponential. Floor 0.

The course is gradient descent itself in float64; the record of round t+1 shows `e_t`. Whoever
still sits on the plateau at the end is `stagnating`, who has left it is whatever he then is, all
by the common rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.core.types import Array, Model
from fedjax_sim.tasks.functional import from_loss
from verdict_suite.rules import Course
from verdict_suite.runner import columns_of, shards, simulate
from verdict_suite.suite import HELD_OUT, TUNING, Family, LabelledRun, label, records_of

CLIENTS = 3
ROUNDS = (50, 80, 120, 200)


def well_loss(p: Any, coefficients: Any) -> Any:
    """`[B]` losses; coefficients `[B, 2]` are a and q."""
    a, q = coefficients[:, 0], coefficients[:, 1]
    x, y = p[0], p[1]
    return 0.5 * a * x**2 + 0.25 * q * (y**2 - 1) ** 2


def chain_loss(p: Any, coefficients: Any) -> Any:
    """`[B]` losses; coefficients `[B, 2]` are a and q."""
    a, q = coefficients[:, 0], coefficients[:, 1]
    return 0.5 * a * p[0] ** 2 + 0.5 * q * (p[1] * p[2] * p[3] - 1) ** 2


def well_gradient(p: np.ndarray, a: float, q: float) -> np.ndarray:
    """Of the double well."""
    return np.array([a * p[0], q * (p[1] ** 3 - p[1])])


def chain_gradient(p: np.ndarray, a: float, q: float) -> np.ndarray:
    """Of the chain."""
    rest = q * (p[1] * p[2] * p[3] - 1)
    return np.array([a * p[0], rest * p[2] * p[3], rest * p[1] * p[3], rest * p[1] * p[2]])


def exit_round(params: dict[str, Any]) -> float:
    """Closed form of the double well: rounds until the linear law reaches |y| = 1."""
    return float(-np.log(abs(params["start"][1])) / np.log1p(params["rate"] * params["q"]))


def well_draws(quick: bool) -> list[dict[str, Any]]:
    """Exit times from a tenth to ten times of the rounds seen."""
    rng = np.random.default_rng(4)
    out: list[dict[str, Any]] = []
    for share in np.repeat((0.15, 0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.6, 2.2, 3.0), 5):
        rounds, q = int(rng.choice(ROUNDS)), float(rng.uniform(0.5, 1.0))
        rate = float(rng.choice([0.03, 0.06, 0.1, 0.2])) / q
        # float32 holds down to 1e-37, and a smaller y stays 0 for good.
        y = max(float(np.exp(-share * rounds * np.log1p(rate * q))), 1e-30)
        x = float(rng.uniform(0.5, 1.1) * rng.choice([-1, 1]))
        out.append({"a": 1.0, "q": q, "rate": rate, "rounds": rounds, "start": [x, y]})
    return out[::9] if quick else out


def chain_draws(quick: bool) -> list[dict[str, Any]]:
    """Starts of 0.01 to 0.5 in every factor."""
    rng = np.random.default_rng(5)
    out: list[dict[str, Any]] = []
    for size in np.repeat((0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5), 5):
        factors = size * rng.uniform(0.8, 1.2, 3)
        rate = float(rng.choice([0.05, 0.1, 0.2]))
        start = [float(rng.uniform(0.3, 1.0)), *factors.tolist()]
        out.append({"a": 1.0, "q": 1.0, "rate": rate, "rounds": int(rng.choice(ROUNDS)),
                    "start": start})  # fmt: skip
    return out[::9] if quick else out


def excess(params: dict[str, Any], rounds: int) -> np.ndarray:
    """Gradient descent in float64, `[rounds]`."""
    a, q, p = params["a"], params["q"], np.asarray(params["start"])
    chain, out, both = len(p) == 4, [], np.array([[params["a"], params["q"]]])
    for _ in range(rounds):
        out.append(float((chain_loss if chain else well_loss)(p, both)[0]))
        p = p - params["rate"] * (chain_gradient if chain else well_gradient)(p, a, q)
    return np.asarray(out)


def _make(
    name: str, split: str, given: list[dict[str, Any]], loss: Callable[..., Any]
) -> list[LabelledRun]:
    x = np.repeat(np.array([[[p["a"], p["q"]]] for p in given]), CLIENTS, axis=1)
    start = jnp.asarray([p["start"] for p in given], float)

    def losses(params: Array, x: Array, y: Array) -> Array:
        del y
        return loss(params, x)

    task = from_loss(lambda key: start[0], losses)
    longest = max(p["rounds"] for p in given)
    columns = simulate(
        fedsgd(lambda lr: optax.sgd(lr), lr=0.1), task, shards(x, 0 * x, CLIENTS), Model(start),
        rounds=longest, seeds=np.arange(len(given)), hyper={"lr": [p["rate"] for p in given]},
    )  # fmt: skip
    runs: list[LabelledRun] = []
    for i, params in enumerate(given):
        e = excess(params, longest)
        records = records_of(columns_of(columns, i), params["rounds"])
        runs.append(label(name, split, params, Course(e, float(e[0])), records, 0.0))
    return runs


WELL = Family(
    "saddle_well", TUNING, lambda quick: _make("saddle_well", TUNING, well_draws(quick), well_loss)
)
CHAIN = Family(
    "saddle_chain", HELD_OUT,
    lambda quick: _make("saddle_chain", HELD_OUT, chain_draws(quick), chain_loss),
)  # fmt: skip
