"""Which algorithms reach the optimum of clients who disagree, however many local steps they take?

    python benchmarks/algorithms/quadratics.py [--rounds 2000] [--algorithm NAME]

10 clients, 5 dimensions, `f_i(x) = (x - b_i)' H_i (x - b_i) / 2` with H_i of eigenvalues 0.1 to 1
in directions of its own and b_i of length about 2.2; everyone in every round, exact gradients, rate
0.1, float64. Printed is the distance to the optimum after the last round, by algorithm and
number K of local steps. FedAvg and FedProx stop elsewhere: FedAvg's fixed point is known in closed
form, and the record holds how far the run ended from it. FedLin and Mime spend two rounds on one
step of the model, and are given as many rounds as the others.

Predicted before the first run: whoever is corrected ends within 1e-9 for every K; FedAvg does
for K = 1 alone, where it is gradient descent. Writes benchmarks/results/quadratics.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import describe
from records import RESULTS, Row, merge

from fedjax_sim import algorithms
from fedjax_sim.core.contracts import Sampler, Task
from fedjax_sim.core.types import Cohort, Member, Model
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine.bind import bind
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.engine.mesh import make_mesh
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import init_run, make_simulate

RESULT = RESULTS / "quadratics.json"
CLIENTS, DIM, RATE, STEPS = 10, 5, 0.1, (1, 5, 20, 50)
_STRENGTH = 0.3

Made = tuple[np.ndarray, np.ndarray]


def recipes() -> dict[str, Callable[..., Recipe]]:
    """`{name: builder of what the batches are}`."""
    sgd = optax.sgd(RATE)
    return {
        "fedavg": lambda **b: algorithms.fedavg(sgd, **b),
        "fedprox": lambda **b: algorithms.fedprox(sgd, mu=_STRENGTH, **b),
        "scaffold": lambda **b: algorithms.scaffold(sgd, **b),
        "scaffold I": lambda **b: algorithms.scaffold(sgd, option="gradient", **b),
        "feddyn": lambda **b: algorithms.feddyn(sgd, alpha=_STRENGTH, **b),
        "fedadmm": lambda **b: algorithms.fedadmm(sgd, rho=_STRENGTH, start="own", **b),
        "fedsplit": lambda **b: algorithms.fedsplit(sgd, strength=_STRENGTH, **b),
        "fedlin": lambda **b: algorithms.fedlin(sgd, **b),
        "mime": lambda **b: algorithms.mime(sgd, **b),
    }


def federation(seed: int = 0) -> Made:
    """Hessians `[CLIENTS, DIM, DIM]` and minimisers `[CLIENTS, DIM]`."""
    rng = np.random.default_rng(seed)
    turns = [np.linalg.qr(rng.normal(size=(DIM, DIM)))[0] for _ in range(CLIENTS)]
    hessians = [q * np.geomspace(0.1, 1, DIM) @ q.T for q in turns]
    return np.array(hessians), rng.normal(size=(CLIENTS, DIM))


def optimum(made: Made) -> np.ndarray:
    """Where the mean of all objectives is least."""
    return resting(made, 1)


def resting(made: Made, steps: int) -> np.ndarray:
    """FedAvg's fixed point: `sum_i (I - (I - rate H_i)^K) (x - b_i) = 0`."""
    pull = [np.eye(DIM) - np.linalg.matrix_power(np.eye(DIM) - RATE * h, steps) for h in made[0]]
    return np.linalg.solve(np.sum(pull, axis=0), np.einsum("nij,nj->i", pull, made[1]))


def task() -> Task:
    """`(x - b)' H (x - b) / 2` of examples (H, b)."""

    def loss(key: Any, model: Model, batch: Any) -> Any:
        del key
        away = model.params["x"][None] - batch.y
        each = 0.5 * jnp.einsum("bi,bij,bj->b", away, batch.x, away)
        count = jnp.maximum(jnp.sum(batch.mask), 1)
        return jnp.sum(jnp.where(batch.mask, each, 0)) / count, model.state

    return Task(lambda key: Model({"x": jnp.zeros(DIM)}), loss, lambda m, x: x, lambda o, b: {})


def everyone(most: int) -> Sampler:
    """All clients, each doing a share `state / most` of its steps: K without compiling anew."""

    def sample(key: Any, steps: Any, r: Any) -> Any:
        del key
        ids = jnp.arange(CLIENTS, dtype=jnp.int32)
        share = jnp.full(CLIENTS, steps / most)
        return steps, Cohort(r, Member(ids, jnp.ones(CLIENTS, bool), jnp.zeros_like(ids), share))

    return Sampler(CLIENTS, lambda n: jnp.zeros(()), sample, lambda state, cohort, info: state)


def ends(name: str, made: Made, rounds: int, steps: tuple[int, ...] = STEPS) -> list[np.ndarray]:
    """Where the algorithm ends for each number of local steps; one program for all."""
    batches = {"steps": max(steps), "batch_size": 1, "shuffle": False, "weighting": "uniform"}
    ones = jnp.arange(CLIENTS, dtype=jnp.int32), jnp.ones(CLIENTS, jnp.int32)
    data = DeviceShards(jnp.asarray(made[0]), jnp.asarray(made[1]), *ones, 1)
    sampler, key, quadratic = everyone(max(steps)), jax.random.key(0), task()
    algorithm = bind(recipes()[name](**batches), quadratic, Plan(), make_mesh(1))
    run = jax.jit(make_simulate(algorithm, sampler, chunk=rounds))
    start = init_run(algorithm, sampler, key, quadratic.init(key), CLIENTS)
    assert algorithm.global_model is not None
    found = []
    for k in steps:
        state, _ = run(key, start._replace(sampler=jnp.asarray(float(k))), rounds, data)
        found.append(np.asarray(algorithm.global_model(state.algorithm).params["x"]))
    return found


def measured(name: str, made: Made, rounds: int) -> list[Row]:
    """A row for each number of local steps."""
    rows: list[Row] = []
    for k, x in zip(STEPS, ends(name, made, rounds), strict=True):
        row: Row = {"algorithm": name, "steps": k, "rounds": rounds, "rate": RATE}
        row["distance"] = float(np.linalg.norm(x - optimum(made)))
        if name == "fedavg":
            row["from_fixed_point"] = float(np.linalg.norm(x - resting(made, k)))
        rows.append(row | {"machine": describe()})
    return rows


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--algorithm", choices=recipes(), help="only this one")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    made = federation()
    print(f"{'distance to the optimum':24}" + "".join(f"{f'K = {k}':>12}" for k in STEPS))
    for name in [options.algorithm] if options.algorithm else recipes():
        rows = measured(name, made, options.rounds)
        print(f"{name:24}" + "".join(f"{row['distance']:12.2e}" for row in rows), flush=True)
        merge(RESULT, rows, ("algorithm", "steps"))


if __name__ == "__main__":
    main()
