"""Rate schedules at the server: cosine, exponential and step decay, 1/t, warm-up.

`F(x) = 1/2 sum_j a_j x_j^2` as in `quadratics`, the rate of round t being `eta h(t)`:
`e_t = 1/2 sum_j a_j x_j(0)^2 prod_{s<t} (1 - eta h(s) a_j)^2`. A rate that decays too early freezes
the run half-way up (`stagnating`); one that starts above 2/L and decays makes a bump that comes
down again, which is no divergence; a warm-up that ends above 2/L is. Floor 0.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.core.types import Array
from fedjax_sim.tasks.quadratic import quadratic
from verdict_suite.quadratics import DIM, problem, spectrum
from verdict_suite.rules import Course
from verdict_suite.runner import columns_of, simulate
from verdict_suite.suite import TUNING, Family, LabelledRun, label, records_of

KINDS = ("cosine", "exponential", "step", "inverse", "warmup")


def factor(kind: Any, span: Any, t: Any, xp: Any = np) -> Any:
    """`h(t)` of the kind with that number; span in rounds."""
    shapes = (
        0.5 * (1 + xp.cos(xp.pi * xp.minimum(t / span, 1.0))),
        xp.exp(-t / span),
        0.1 ** xp.floor(t / span),
        1 / (1 + t / span),
        xp.minimum((t + 1) / span, 1.0),
    )
    return sum((kind == i) * shape for i, shape in enumerate(shapes))


def draws(quick: bool) -> list[dict[str, Any]]:
    """Kinds times spans times rates."""
    rng = np.random.default_rng(12)
    out: list[dict[str, Any]] = []
    for kind in range(len(KINDS)):
        for span, rate in [(s, r) for s in (3, 10, 40, 100) for r in (0.05, 0.5, 1.5, 2.3)]:
            condition = float(rng.choice([2, 10, 100]))
            rounds = int(rng.integers(4, 10) if len(out) % 10 == 9 else rng.choice([50, 100, 200]))
            out.append({"kind": kind, "span": span, "rate": rate, "condition": condition,
                        "rounds": rounds, "start": rng.normal(size=DIM).tolist()})  # fmt: skip
    return out[::11] if quick else out


def excess(params: dict[str, Any], rounds: int) -> np.ndarray:
    """The closed form, `[rounds]`."""
    a, x = spectrum(params["condition"]), np.asarray(params["start"])
    h = factor(params["kind"], params["span"], np.arange(rounds - 1.0))
    steps = (1 - params["rate"] * h[:, None] * a) ** 2
    kept = np.concatenate([np.ones((1, DIM)), np.cumprod(steps, axis=0)])
    return 0.5 * np.sum(a * kept * x**2, axis=1)


def _optimizer(lr: Array, kind: Array, span: Array) -> optax.GradientTransformation:
    return optax.sgd(lambda count: lr * factor(kind, span, count, jnp))


def make(quick: bool) -> list[LabelledRun]:
    """The runs."""
    given = draws(quick)
    data, starts = problem(given)
    longest = max(p["rounds"] for p in given)
    columns = simulate(
        fedsgd(_optimizer, lr=0.1, kind=0.0, span=1.0), quadratic(DIM), data, starts,
        rounds=longest, seeds=np.arange(len(given)),
        hyper={"lr": [p["rate"] for p in given], "kind": [p["kind"] for p in given],
               "span": [p["span"] for p in given]},
    )  # fmt: skip
    runs: list[LabelledRun] = []
    for i, params in enumerate(given):
        e = excess(params, longest)
        grows = params["kind"] == KINDS.index("warmup") and params["rate"] > 2
        course = Course(e, float(e[0]), unbounded=grows)
        records = records_of(columns_of(columns, i), params["rounds"])
        runs.append(label("schedules", TUNING, params, course, records, 0.0))
    return runs


FAMILY = Family("schedules", TUNING, make)
