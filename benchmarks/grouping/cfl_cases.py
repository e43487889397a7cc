"""Quadratics on both sides of each of CFL's criteria; `cfl.py` runs them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from machine import describe

from fedjax_sim import tasks
from fedjax_sim.algorithms.cfl import cfl
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine.bind import bind
from fedjax_sim.engine.mesh import make_mesh
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import init_run, make_simulate
from fedjax_sim.sampling.uniform import uniform

TINY = 1e-3


class Case(NamedTuple):
    """Six targets `[6, 2]` and the criteria."""

    targets: np.ndarray
    eps1: float = 1e-3
    eps2: float = 0.1
    gamma_max: float = 0.3
    gap: float = -2.0


def opposed(spread: float) -> np.ndarray:
    """Directions 0, +-spread and their opposites: mean 0, at rest from the first round on."""
    degrees = np.deg2rad([0, spread, -spread, 180, 180 + spread, 180 - spread])
    return np.stack([np.cos(degrees), np.sin(degrees)], axis=1)


def cases() -> dict[str, Case]:
    """Each criterion on either side of its edge, all others met."""
    both = {"just below": 1 - TINY, "just above": 1 + TINY}
    found: dict[str, Case] = {}
    for side, factor in both.items():
        moved = opposed(5) + np.array([[1.0, 0.0]])
        found[f"eps1 {side} |u| of round 3"] = Case(moved, eps1=factor * 0.5**3)
        found[f"eps2 {side} max |u_i|"] = Case(opposed(5), eps2=factor * 0.5)
        for spread in (10, 25, 40):
            edge = factor * np.cos(np.deg2rad(spread))
            found[f"gamma_max {side} its edge, spread {spread}"] = Case(
                opposed(spread), gamma_max=min(edge, 0.999999)
            )
        gap = 2 * np.cos(np.deg2rad(80))
        found[f"gap {side} its edge, spread 40"] = Case(opposed(40), gap=gap * factor)
    found["one optimum"] = Case(np.full((6, 2), 0.7), eps1=0.1, eps2=0.1, gamma_max=0.01)
    thirds = np.deg2rad(np.repeat([0, 120, 240], 2))
    found["three groups"] = Case(np.stack([np.cos(thirds), np.sin(thirds)], axis=1), eps1=0.05)
    return found


def predicted(case: Case, rounds: int) -> dict[str, Any]:
    """The first split by closed form, from 1, with the numbers that decide; None for no split."""
    middle = case.targets.mean(axis=0)
    told: dict[str, Any] = {"round": None}
    for t in range(rounds):
        updates = ((1 - 0.5**t) * middle - case.targets) / 2
        norms = np.linalg.norm(updates, axis=1)
        mean, most = float(np.linalg.norm(updates.mean(axis=0))), float(norms.max())
        if not (mean < case.eps1 and most > case.eps2):
            continue
        alike = updates @ updates.T / np.outer(norms, norms)
        side, cross = best_cut(alike)
        same = (side[:, None] == side[None]) & ~np.eye(6, dtype=bool)
        gap = float(alike[same].min() - cross)
        gamma = float(np.sqrt((1 - min(cross, 1)) / 2))
        told |= {"mean": mean, "longest": most, "cross": cross, "gap": gap, "gamma": gamma}
        if case.gamma_max < gamma and gap >= case.gap:
            return told | {"round": t + 1}
    return told


def best_cut(alike: np.ndarray) -> tuple[np.ndarray, float]:
    """All 31 bipartitions of six tried."""
    sides = [np.array([b >> i & 1 for i in range(6)], bool) for b in range(1, 32)]
    across = [float(alike[np.ix_(s, ~s)].max()) for s in sides]
    best = int(np.argmin(across))
    return sides[best], across[best]


def constructed() -> list[dict[str, Any]]:
    """A row a case."""
    task, n, rounds = tasks.quadratic(2), 6, 12
    recipe = cfl(optax.sgd(0.5), groups=4, norms="absolute", batch_size=1, shuffle=False)
    algorithm, sampler = bind(recipe, task, Plan(), make_mesh(1)), uniform(n, n)
    simulate = jax.jit(make_simulate(algorithm, sampler, chunk=1))
    key, rows = jax.random.key(0), []
    for name, case in cases().items():
        data = _windows(np.ones((n, 2), np.float32), case.targets.astype(np.float32), 1)
        hyper = case._asdict()
        del hyper["targets"]
        state = init_run(algorithm, sampler, key, task.init(key), n, hyper)
        counts: list[int] = []
        for _ in range(rounds):
            state, _ = simulate(key, state, 1, data)
            counts.append(int(state.algorithm.server.used))
        split = [r + 1 for r, count in enumerate(counts) if count > 1]
        told = predicted(case, rounds)
        row = {"part": "constructed", "case": name, "predicted": told}
        row |= {"seen": split[0] if split else None, "groups": counts[-1]}
        rows.append(row | {"machine": describe()})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The constructed cases: what was predicted, by which numbers, and what was seen."""
    lines = [f"{'case':44} {'predicted':>9} {'seen':>5}   |u|     max     alpha   gamma   gap"]
    for row in rows:
        told = row["predicted"]
        names = ("mean", "longest", "cross", "gamma", "gap")
        numbers = [f"{told[n]:7.4f}" if n in told else "      -" for n in names]
        when = ["never" if v is None else str(v) for v in (told["round"], row["seen"])]
        lines.append(f"{row['case']:44} {when[0]:>9} {when[1]:>5} {' '.join(numbers)}")
    right = sum(row["predicted"]["round"] == row["seen"] for row in rows)
    return "\n".join([*lines, f"{right} of {len(rows)} as predicted"])


def _windows(x: np.ndarray, y: np.ndarray, size: int) -> DeviceShards:
    offsets = jnp.arange(0, len(x), size, dtype=jnp.int32)
    sizes = jnp.full(len(offsets), size, jnp.int32)
    return DeviceShards(jnp.asarray(x), jnp.asarray(y), offsets, sizes, size)
