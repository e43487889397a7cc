"""How many rounds each algorithm needs to leave a saddle.

    python benchmarks/saddles.py [--seeds 5] [--limit 10000] [--problem NAME] [--algorithm NAME]

Plain descent, momentum, perturbed descent and negative-curvature steps, all through the engine in
float64 with every client in every round, from a point where plain descent stays: surfaces with
known saddles, a deep linear network at zero, and digits classifiers whose hidden units are zero or
all alike. A model has left when its loss is `fall` below the start. Units alike start from the
symmetric network that 1,000 rounds of plain descent make, and have left at a loss of 1, which no
network of one unit comes near; under plain descent and momentum rounding alone parts them. Rows of
the same problem and algorithm are replaced, others kept.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from machine import describe  # noqa: E402
from records import RESULTS, merge  # noqa: E402

from fedjax_sim import tasks  # noqa: E402
from fedjax_sim.algorithms import fedsgd, negative_curvature, perturbed  # noqa: E402
from fedjax_sim.core.contracts import Task  # noqa: E402
from fedjax_sim.core.types import Model  # noqa: E402
from fedjax_sim.data.batching import DeviceShards  # noqa: E402
from fedjax_sim.data.readers.digits import read_digits  # noqa: E402
from fedjax_sim.engine.bind import bind  # noqa: E402
from fedjax_sim.engine.compose import Recipe  # noqa: E402
from fedjax_sim.engine.mesh import make_mesh  # noqa: E402
from fedjax_sim.engine.plan import Plan  # noqa: E402
from fedjax_sim.engine.simulate import init_run, make_simulate  # noqa: E402
from fedjax_sim.sampling.uniform import uniform  # noqa: E402
from fedjax_sim.tasks import saddle_networks, saddles  # noqa: E402

RESULT = RESULTS / "saddles.json"
CLIENTS, CHUNK, WARM = 10, 250, 1000


class Problem(NamedTuple):
    """One saddle.

    Attributes:
      make: `() -> (task, data)`.
      rate: of all algorithms.
      fall: how far the loss must fall.
      threshold: norm below which a gradient is small.
      bound: the loss that must be reached, in place of `fall`; plain descent first runs `WARM`
        rounds, after which the units are made alike again.
    """

    make: Callable[[], tuple[Task, DeviceShards]]
    rate: float
    fall: float
    threshold: float = 1e-2
    bound: float | None = None


def shards(x: np.ndarray, y: np.ndarray) -> DeviceShards:
    """Equal windows for all clients."""
    size = len(x) // CLIENTS
    starts = jnp.arange(CLIENTS, dtype=jnp.int32) * size
    kept = slice(0, size * CLIENTS)
    sizes = jnp.full((CLIENTS,), size, jnp.int32)
    return DeviceShards(jnp.asarray(x[kept]), jnp.asarray(y[kept]), starts, sizes, size)


def surface(function: saddles.Surface, start: Any) -> tuple[Task, DeviceShards]:
    """Clients with tilts that cancel in pairs, to the last bit."""
    half = saddles.tilts(CLIENTS // 2, function.dim, 0.3)
    tilt = np.concatenate([half, -half])
    return saddles.surface(function, start), shards(tilt, np.zeros_like(tilt))


def linear_network() -> tuple[Task, DeviceShards]:
    """8 inputs, 6 hidden units, 4 outputs, 200 examples."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 8))
    y = x @ rng.normal(size=(8, 4)) / 3 + 0.1 * rng.normal(size=(200, 4))
    return saddle_networks.deep_linear(8, 6, 4), shards(x, y)


def digits(activation: str, scale: float) -> tuple[Task, DeviceShards]:
    """500 digits, 4 hidden units."""
    x, y = read_digits()
    spec = saddle_networks.symmetric_mlp(4, activation=activation, scale=scale)
    task = tasks.classifier(spec, 10, x_shape=(64,), dtype=jnp.float64)
    assert not isinstance(task, tasks.TaskSpec)
    return task, shards(x[:500].reshape(500, 64) / 16, y[:500].astype(np.int32))


PROBLEMS = {
    "saddle, down 1": Problem(lambda: surface(saddles.saddle(1.0), [0, 0]), 0.1, 0.1),
    "saddle, down 0.1": Problem(lambda: surface(saddles.saddle(0.1), [0, 0]), 0.1, 0.01),
    "double well": Problem(lambda: surface(saddles.double_well(1.0), [0, 0]), 0.1, 0.1),
    "monkey saddle": Problem(lambda: surface(saddles.monkey_saddle(), [0, 0]), 0.1, 0.1),
    "monkey saddle, 0.05 beside": Problem(
        lambda: surface(saddles.monkey_saddle(), [0.05, 0]), 0.1, 0.1
    ),
    "octopus(5), all five": Problem(
        lambda: surface(saddles.octopus(5, width=1.0), [0] * 5), 0.05, 5 * 17.0
    ),
    "deep linear network at zero": Problem(linear_network, 0.1, 0.3),
    "tanh units at zero, digits": Problem(lambda: digits("tanh", 0.0), 0.5, 0.3),
    "tanh units alike, digits": Problem(lambda: digits("tanh", 0.3), 0.1, 0.0, 0.3, bound=1.0),
    "softplus units alike, digits": Problem(
        lambda: digits("softplus", 0.3), 0.1, 0.0, 0.3, bound=1.0
    ),
}


def recipes(problem: Problem) -> dict[str, Recipe]:
    """The algorithms, all at the problem's rate."""
    rate, small = problem.rate, problem.threshold
    return {
        "plain": fedsgd(optax.sgd(rate)),
        "momentum 0.9": fedsgd(optax.sgd(rate, momentum=0.9)),
        "perturbed": perturbed(
            optax.sgd(rate),
            radius=1e-2,
            threshold=rate * small,
            wait=100.0,
            steps=1,
            batch_size=None,
        ),
        "negative curvature": negative_curvature(optax.sgd(rate), threshold=small),
    }


class Runner:
    """One algorithm on one problem, compiled once for all seeds."""

    def __init__(self, recipe: Recipe, task: Task, data: DeviceShards) -> None:
        self.algorithm = bind(recipe, task, Plan(), make_mesh(1))
        self.sampler, self.data = uniform(CLIENTS, CLIENTS), data
        self.simulate = jax.jit(make_simulate(self.algorithm, self.sampler, chunk=CHUNK))

    def __call__(self, seed: int, model: Model, limit: int, stop: float = -np.inf) -> Any:
        """`(losses of the models that rounds started from, params)`, until one is below `stop`."""
        key = jax.random.key(seed)
        state = init_run(self.algorithm, self.sampler, key, model, CLIENTS)
        losses: list[float] = []
        while len(losses) < limit:
            state, records = self.simulate(key, state, CHUNK, self.data)
            losses += np.asarray(records["train_loss"]).tolist()
            if not np.all(np.array(losses) >= stop):
                break
        assert self.algorithm.global_model is not None
        return np.array(losses[:limit]), self.algorithm.global_model(state.algorithm)


def alike(model: Model) -> Model:
    """Every hidden unit replaced by their mean: what rounding has parted is joined."""

    def joined(leaf: jax.Array, axis: int) -> jax.Array:
        return jnp.broadcast_to(jnp.mean(leaf, axis=axis, keepdims=True), leaf.shape)

    low, head = model.params["hidden"], model.params["head"]
    low = {name: joined(leaf, -1) for name, leaf in low.items()}
    return Model({"hidden": low, "head": head | {"w": joined(head["w"], 0)}})


def measured(
    name: str, problem: Problem, seeds: int, limit: int, only: str | None = None
) -> list[dict[str, Any]]:
    """A row for each algorithm: rounds to leave, by seed; None for a run that stayed."""
    task, data = problem.make()
    plain = Runner(fedsgd(optax.sgd(problem.rate)), task, data)
    starts = [task.init(jax.random.key(seed)) for seed in range(seeds)]
    if problem.bound is not None:
        starts = [alike(plain(seed, start, WARM)[1]) for seed, start in enumerate(starts)]
    first = [float(plain(seed, start, 1)[0][0]) for seed, start in enumerate(starts)]
    bounds = [f - problem.fall if problem.bound is None else problem.bound for f in first]
    rows = []
    for algorithm, recipe in recipes(problem).items():
        if only is not None and algorithm != only:
            continue
        runner = Runner(recipe, task, data)
        rounds: list[int | None] = []
        for seed, (start, bound) in enumerate(zip(starts, bounds, strict=True)):
            losses, _ = runner(seed, start, limit, bound)
            below = np.flatnonzero(~(losses >= bound))
            rounds.append(int(below[0]) if below.size else None)
        left = [r for r in rounds if r is not None]
        rows.append(
            {
                "problem": name,
                "algorithm": algorithm,
                "rate": problem.rate,
                "fall": problem.fall,
                "bound": problem.bound,
                "start": first,
                "limit": limit,
                "rounds": rounds,
                "left": len(left),
                "median": statistics.median(left) if left else None,
                "machine": describe(),
            }
        )
        shown = " ".join(f"{limit}+" if r is None else str(r) for r in rounds)
        print(f"{name:30} {algorithm:20} {len(left)} of {seeds} left   {shown}", flush=True)
    return rows


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--problem", choices=sorted(PROBLEMS), help="only this one")
    parser.add_argument("--algorithm", help="only this one")
    options = parser.parse_args()
    for name in [options.problem] if options.problem else PROBLEMS:
        rows = measured(name, PROBLEMS[name], options.seeds, options.limit, options.algorithm)
        merge(RESULT, rows, ("problem", "algorithm"))


if __name__ == "__main__":
    main()
