"""Client drift: FedAvg with many local steps (tuning) and SCAFFOLD (held out) on quadratics.

6 clients, `f_i(x) = 1/2 sum_j a_ij (x_j - b_ij)^2`, K full gradient steps of rate eta, server rate
s: `x <- x - s mean_i c_i (x - b_i)` with `c_i = 1 - (1 - eta a_i)^K`, whose fixed point
`sum c b / sum c` is not the optimum `sum a b / sum a` (PAPERS.md, section 1): the excess there is
known. SCAFFOLD on the same problems ends at the optimum. Unbounded where `eta a > 2` for some
client and the mean map grows.

The truth is about the global objective F after the round, which the records hold as `test_loss`
every round (evaluation on everyone's examples); `train_loss` is the mean loss along the local
steps and says little here. The floor is F*. Starts are set so that the fixed point's excess is
0.3 % to 100 % of the start's. Course: the recursions in float64.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.algorithms.scaffold import scaffold
from fedjax_sim.core.types import Model
from fedjax_sim.tasks.quadratic import quadratic
from verdict_suite.rules import Course
from verdict_suite.runner import columns_of, shards, simulate
from verdict_suite.suite import HELD_OUT, TUNING, Family, LabelledRun, label, records_of

DIM, CLIENTS = 4, 6
STEPS = (2, 10, 40)
SHARES = (0.003, 0.01, 0.02, 0.3, 0.5, 0.8)  # the fixed point's excess over the start's


def draws(seed: int, steps: int, quick: bool) -> list[dict[str, Any]]:
    """Shares times server rates, and some local rates beyond 2/a."""
    rng = np.random.default_rng([seed, steps])
    out: list[dict[str, Any]] = []
    for share in SHARES:
        for server in (0.01, 0.05, 0.15, 0.4):
            rounds = int(rng.integers(4, 10) if len(out) % 9 == 8 else rng.choice([50, 90, 150]))
            out.append({"share": share, "server": server, "rounds": rounds, "steps": steps,
                        "rate": float(rng.uniform(0.2, 0.9)),
                        "seed": int(rng.integers(1 << 30))})  # fmt: skip
    for rate in (2.05, 2.15, 2.4):
        out.append({"share": 0.5, "server": 1.0, "rounds": 40, "steps": steps, "rate": rate,
                    "seed": int(rng.integers(1 << 30))})  # fmt: skip
    return out[::8] if quick else out


def problem(params: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Curvatures `[N, d]` up to 1, targets `[N, d]` and the start `[d]`."""
    rng = np.random.default_rng(params["seed"])
    a = np.exp(rng.uniform(np.log(0.02), 0, (CLIENTS, DIM)))
    a[0] = 1.0
    # Targets lean on the curvature, or drift would be an accident of the draw.
    b = np.log(a) + rng.normal(size=(CLIENTS, DIM))
    best = (a * b).sum(0) / a.sum(0)
    share = max(float(excess_at(a, b, fixed_point(params, a, b))), 1e-3) / params["share"]
    direction = rng.normal(size=DIM)
    scale = np.sqrt(share / (0.5 * np.sum(a.mean(0) * direction**2)))
    return a, b, best + scale * direction


def fixed_point(params: dict[str, Any], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where FedAvg ends, `[d]`."""
    c = 1 - (1 - min(params["rate"], 0.9) * a) ** params["steps"]
    return (c * b).sum(0) / c.sum(0)


def excess_at(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> Any:
    """`F(x) - F*`."""
    best = (a * b).sum(0) / a.sum(0)
    return 0.5 * np.sum(a.mean(0) * (x - best) ** 2)


def lowest(a: np.ndarray, b: np.ndarray) -> float:
    """F*."""
    best = (a * b).sum(0) / a.sum(0)
    return 0.5 * float(np.sum(np.mean(a * (best - b) ** 2, axis=0)))


def excess(params: dict[str, Any], rounds: int, controlled: bool) -> np.ndarray:
    """The excess after rounds 1 to `rounds`, `[rounds]`."""
    a, b, x = problem(params)
    eta, control, out = params["rate"], np.zeros_like(a), []
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(rounds):
            y, total = np.tile(x, (CLIENTS, 1)), np.zeros_like(a)
            for _ in range(params["steps"]):
                gradient = a * (y - b)
                total = total + gradient
                lean = control.mean(0) - control if controlled else 0.0
                y = y - eta * (gradient + lean)
            control = total / params["steps"]
            x = x - params["server"] * (x - y.mean(0))
            out.append(float(excess_at(a, b, x)))
    return np.asarray(out)


def _make(name: str, split: str, seed: int, controlled: bool, quick: bool) -> list[LabelledRun]:
    runs: list[LabelledRun] = []
    for steps in STEPS[1:2] if quick else STEPS:
        given = draws(seed, steps, quick)
        made = [problem(p) for p in given]
        a, b, start = (np.stack([m[i] for m in made]) for i in range(3))
        longest = max(p["rounds"] for p in given)
        local = {"lr": 0.1, "steps": steps, "epochs": None, "batch_size": 1}
        recipe = (
            scaffold(lambda lr: optax.sgd(lr), server_rate=1.0, **local)
            if controlled
            else fedavg(lambda lr: optax.sgd(lr), server=lambda rate: optax.sgd(rate), rate=1.0,
                        **local)
        )  # fmt: skip
        columns = simulate(
            recipe, quadratic(DIM), shards(a, b, CLIENTS), Model({"x": jnp.asarray(start, float)}),
            rounds=longest, seeds=np.arange(len(given)),
            hyper={"lr": [p["rate"] for p in given],
                   "server_rate" if controlled else "rate": [p["server"] for p in given]},
        )  # fmt: skip
        columns["test_loss"] = columns["objective"]
        for i, params in enumerate(given):
            e = excess(params, longest, controlled)
            course = Course(e, float(excess_at(*made[i])), unbounded=params["rate"] > 2)
            records = records_of(columns_of(columns, i, "test_loss"), params["rounds"])
            floor = lowest(*made[i][:2])
            runs.append(label(name, split, params, course, records, floor))
    return runs


FEDAVG = Family(
    "fedavg_drift", TUNING, lambda quick: _make("fedavg_drift", TUNING, 7, False, quick)
)
SCAFFOLD = Family("scaffold", HELD_OUT, lambda quick: _make("scaffold", HELD_OUT, 8, True, quick))
