"""Many runs of a family as one program: the engine's round loop under `vmap`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.contracts import Task, Watch
from fedjax_sim.core.types import Batch, Model, Moment
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.diagnostics.watch import watch
from fedjax_sim.engine.bind import bind
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.engine.mesh import make_mesh
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import init_run, make_simulate
from fedjax_sim.sampling.uniform import uniform

LEAST_BINS = 16  # of the watch's sketches, which nobody reads here
RECORDED = ("train_loss", "update_norm", "step_norm", "step_cosine")
Columns = dict[str, np.ndarray]


def shards(x: Any, y: Any, clients: int) -> DeviceShards:
    """Equal clients from `x, y [V, clients * n, ...]`, one federation for each of V runs."""
    runs, total = x.shape[:2]
    size = total // clients
    offsets = np.tile(np.arange(clients) * size, (runs, 1))
    sizes = np.full((runs, clients), size)
    kind = jnp.result_type(float)
    return DeviceShards(
        jnp.asarray(x, kind),
        jnp.asarray(y, kind),
        jnp.asarray(offsets, jnp.int32),
        jnp.asarray(sizes, jnp.int32),
        size,
    )


def observer(task: Task, test: tuple[Any, Any] | None) -> Watch:
    """The package's own watch of a run's steps, and the exact objective after each round.

    Args:
      task: gives the loss.
      test: `(x, y)` whose loss and accuracy are measured as well, or None.
    """
    steps = watch(bins=LEAST_BINS)

    def objective(model: Model, x: Any, y: Any, key: Any) -> Any:
        return task.loss(key, model, Batch(x, y, jnp.ones(x.shape[0], bool)))[0]

    def observe(state: Any, moment: Moment) -> Any:
        after, data = moment.after, moment.data
        assert after is not None
        state, values = steps.observe(state, moment)
        values |= {"objective": objective(after, data.x, data.y, moment.key)}
        if test is not None:
            values |= {"test_loss": objective(after, *test, moment.key)}
            batch = Batch(*test, jnp.ones(len(test[0]), bool))
            right, count = task.metrics(task.predict(after, batch.x), batch)["accuracy"]
            values |= {"test_accuracy": right / count}
        return state, values

    return Watch(steps.init, observe)


def simulate(
    recipe: Recipe,
    task: Task,
    data: DeviceShards,
    model: Model,
    *,
    rounds: int,
    seeds: Any,
    hyper: Mapping[str, Any],
    cohort: int | None = None,
    lanes: int | None = None,
    test: tuple[Any, Any] | None = None,
) -> Columns:
    """V runs of a recipe, each with its own federation, start, seed and numbers.

    Args:
      recipe: with the numbers in `hyper` traced.
      task: what is learned.
      data: leaves `[V, ...]`.
      model: leaves `[V, ...]`, where the runs start.
      rounds: of every run.
      seeds: `[V]`.
      hyper: `{name: [V]}`.
      cohort: clients a round; all when None.
      lanes: clients at the same time; the whole cohort when None.
      test: see `observer`.

    Returns:
      `{name: float64 [V, rounds]}`.
    """
    n_clients = data.sizes.shape[1]
    cohort = cohort or n_clients
    plan = Plan(lanes or cohort)
    algorithm = bind(recipe, task, plan, make_mesh(1))
    sampler, own = uniform(cohort, n_clients), observer(task, test)
    run_rounds = make_simulate(algorithm, sampler, chunk=rounds, watch=own)

    def one(seed: Any, hyper: Any, model: Model, data: DeviceShards) -> Any:
        key = jax.random.key(seed)
        state = init_run(algorithm, sampler, key, model, n_clients, hyper, own)
        return run_rounds(key, state, rounds, data)[1]

    numbers = {n: jnp.asarray(v, float) for n, v in hyper.items()}
    out = jax.jit(jax.vmap(one))(jnp.asarray(seeds, jnp.uint32), numbers, model, data)
    kept = {n: np.asarray(v, float) for n, v in out.items() if n in RECORDED or _measured(n)}
    sound = np.asarray(out["sound"])
    kept["step_cosine"] = np.where(out["step_cosine_measured"], kept["step_cosine"], np.nan)
    for name in ("train_loss", "step_norm", "objective"):
        kept[name] = np.where(sound, kept[name], np.nan)
    return kept


def _measured(name: str) -> bool:
    return name == "objective" or name.startswith("test_")


def columns_of(columns: Columns, run: int, *names: str) -> Columns:
    """The recorded columns of one run, and those named."""
    return {n: columns[n][run] for n in (*RECORDED, *names) if n in columns}
