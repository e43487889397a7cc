"""Limit cycles, by too high a rate on no quadratic: wells (tuning), logistic (held out).

Wells: `F(y) = sum_j w_j (y_j^2 - 1)^2 / 4` on three coordinates; at its minimum coordinate j
multiplies errors by `1 - 2 eta w_j`: below -1 it goes round a cycle of period 2, then 4, and
beyond `eta w` of about 2 the iterates leave for infinity. Floor 0.

Logistic: `F(z) = sum_j p_j softplus(-w_j z_j) + (1 - p_j) softplus(w_j z_j)`, labels that are 1
with chance p_j. Its gradient is bounded, so no rate makes it diverge; above `2 / F''` it cycles,
and with p_j off one half the loss is higher on one side of the cycle. The floor is F*, the
entropy of the labels.

Course: gradient descent in float64; the record of round t+1 shows `e_t`. Left out besides: runs
that turn for ever and are neither periodic (period at most 16, to 1e-6 after 3000 rounds) nor
gone: chaos.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.core.types import Array, Model
from fedjax_sim.tasks.functional import from_loss
from verdict_suite.rules import Course, swings
from verdict_suite.runner import columns_of, shards, simulate
from verdict_suite.suite import HELD_OUT, TUNING, Family, LabelledRun, label, records_of

DIM, CLIENTS, LATER = 3, 3, 3000
ROUNDS = (40, 60, 100, 160)
Params = dict[str, Any]


def well_loss(y: Array, x: Array) -> Array:
    """`[B]` losses of `y [DIM]`; x `[B, 2 DIM]` holds w, then p (unused)."""
    return jnp.sum(x[:, :DIM] * (y[None] ** 2 - 1) ** 2 / 4, axis=1)


def logistic_loss(z: Array, x: Array) -> Array:
    """`[B]` losses of `z [DIM]`; x `[B, 2 DIM]` holds w, then p."""
    w, p = x[:, :DIM], x[:, DIM:]
    up, down = jax.nn.softplus(-w * z[None]), jax.nn.softplus(w * z[None])
    return jnp.sum(p * up + (1 - p) * down, axis=1)


def value(params: Params, y: np.ndarray) -> np.ndarray:
    """`[...]` excess of `y [..., DIM]`."""
    w, p = np.asarray(params["w"]), np.asarray(params["p"])
    if not params["logistic"]:
        return np.sum(w * (y**2 - 1) ** 2 / 4, axis=-1)
    each = p * np.logaddexp(0, -w * y) + (1 - p) * np.logaddexp(0, w * y)
    return np.sum(each, axis=-1) - floor_of(params)


def floor_of(params: Params) -> float:
    """The lowest loss."""
    p = np.asarray(params["p"])
    entropy = float(-np.sum(p * np.log(p) + (1 - p) * np.log(1 - p)))
    return entropy if params["logistic"] else 0.0


def path(params: Params, rounds: int) -> np.ndarray:
    """Gradient descent in float64, `[rounds, DIM]`."""
    w, p = np.asarray(params["w"]), np.asarray(params["p"])
    y, out = np.asarray(params["start"], float), []
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(rounds):
            out.append(y)
            slope = w * (1 / (1 + np.exp(-w * y)) - p) if params["logistic"] else w * (y**3 - y)
            y = y - params["rate"] * slope
    return np.asarray(out)


def periodic(params: Params) -> bool:
    """Whether the run ends on a cycle of at most 16 rounds, or at infinity."""
    late = path(params, LATER + 64)[LATER:]
    if not np.isfinite(late).all() or swings(value(params, late))[2] < 6:
        return True
    return any(np.allclose(late[k:], late[:-k], atol=1e-6, rtol=1e-6) for k in range(1, 17))


def draws(logistic: bool, quick: bool) -> list[Params]:
    """Rates from well below the first cycle to beyond the last."""
    rng = np.random.default_rng(10 + logistic)
    wells = (
        0.02,
        0.1,
        0.5,
        0.9,
        1.02,
        1.06,
        1.1,
        1.14,
        1.18,
        1.2,
        1.22,
        1.24,
        1.26,
        1.28,
        1.6,
        2.2,
        3,
    )
    times = (
        0.002,
        0.006,
        0.02,
        0.3,
        0.9,
        1.08,
        1.12,
        1.16,
        1.2,
        1.24,
        1.28,
        1.32,
        1.36,
        1.4,
        1.7,
        2.5,
        3.5,
    )
    out: list[Params] = []
    for factor in np.repeat(times if logistic else wells, 4):
        w = rng.permutation([1.0, float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.1, 0.6))])
        p = rng.choice([0.12, 0.2, 0.3, 0.7, 0.85], DIM) if logistic else np.full(DIM, 0.5)
        curvature = float(np.max(w**2 * p * (1 - p)))
        start = rng.normal(size=DIM) if logistic else rng.uniform(0.3, 1.5, DIM)
        rounds = int(rng.integers(4, 10) if len(out) % 12 == 11 else rng.choice(ROUNDS))
        out.append({"logistic": logistic, "w": w.tolist(), "p": p.tolist(), "rounds": rounds,
                    "rate": float(factor) * (2 / curvature if logistic else 1.0),
                    "start": start.tolist()})  # fmt: skip
    return out[::11] if quick else out


def _make(
    name: str, split: str, given: list[Params], loss: Callable[..., Array]
) -> list[LabelledRun]:
    x = np.array([[p["w"] + p["p"]] * CLIENTS for p in given])
    start = jnp.asarray([p["start"] for p in given], float)
    task = from_loss(lambda key: start[0], lambda y, x, _: loss(y, x))
    longest = max(p["rounds"] for p in given)
    columns = simulate(
        fedsgd(lambda lr: optax.sgd(lr), lr=0.1), task, shards(x, x[:, :, :1], CLIENTS),
        Model(start), rounds=longest, seeds=np.arange(len(given)),
        hyper={"lr": [p["rate"] for p in given]},
    )  # fmt: skip
    runs: list[LabelledRun] = []
    for i, params in enumerate(given):
        with np.errstate(over="ignore", invalid="ignore"):
            e = value(params, path(params, longest))
        records = records_of(columns_of(columns, i), params["rounds"])
        veto = functools.partial(_chaos, not periodic(params))
        course = Course(e, float(e[0]), unbounded=not np.isfinite(e[-1]))
        runs.append(label(name, split, params, course, records, floor_of(params), veto=veto))
    return runs


def _chaos(chaotic: bool, verdict: str, rounds: int) -> bool:
    del verdict
    return chaotic and rounds >= 10


WELLS = Family(
    "cycle_wells", TUNING,
    lambda quick: _make("cycle_wells", TUNING, draws(False, quick), well_loss),
)  # fmt: skip
LOGISTIC = Family(
    "cycle_logistic", HELD_OUT,
    lambda quick: _make("cycle_logistic", HELD_OUT, draws(True, quick), logistic_loss),
)  # fmt: skip
