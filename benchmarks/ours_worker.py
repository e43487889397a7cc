"""Any workload in fedjax_sim, through the public engine.

    python benchmarks/ours_worker.py NAME [--lanes L] [--devices D] [--chunk ROUNDS]
        [--platform cpu|gpu] [--no-lowering]

Serves the commands of `worker.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from architectures import Conv
from worker import evaluation_rows, serve
from workloads import WORKLOADS, Flat, Workload, flat, initial

from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Batch, Model
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine import mesh as meshes
from fedjax_sim.engine import plan as plans
from fedjax_sim.engine.bind import bind
from fedjax_sim.engine.simulate import init_run, make_simulate
from fedjax_sim.sampling.uniform import uniform
from fedjax_sim.tasks import classifier, models


@dataclasses.dataclass
class Simulation:
    """A workload on the devices, ready to run.

    Attributes:
      workload: what it is.
      plan: lanes and devices.
      mesh: the devices.
      advance: `(rounds)`; the compiled program, `chunk` rounds a dispatch at most.
      loss: of the present model on the evaluation rows.
      state: the run's state.
    """

    workload: Workload
    plan: plans.Plan
    mesh: Any
    advance: Callable[[int], None]
    loss: Callable[[], float]
    state: Any


def start_backend(platform: str = "cpu", devices: int | None = None) -> None:
    """Choose the platform; on a CPU its cores become devices. Before anything touches one."""
    jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[platform])
    if platform == "cpu":
        meshes.cores_as_devices(devices)


def task_of(workload: Workload) -> Task:
    """The workload's model from the package, as a classifier."""
    if isinstance(workload.layers[0], Conv):
        spec = models.cnn_w1() if workload.layers[0].side == 3 else models.cnn_mcmahan()
    else:
        spec = models.mlp(*workload.widths[1:-1])
    return classifier(spec, workload.classes, x_shape=workload.inputs)


def params_of(workload: Workload) -> dict[str, dict[str, jax.Array]]:
    """The common initial weights under the names that the package's models use."""
    kinds = [type(layer) for layer in workload.layers]
    convolutions = kinds.count(Conv)
    hidden = len(kinds) - convolutions - 1
    names = [f"conv_{i}" for i in range(convolutions)]
    names += ["dense"] if convolutions else [f"dense_{i}" for i in range(hidden)]
    pairs = zip([*names, "head"], initial(workload), strict=True)
    return {name: {"w": jnp.asarray(w), "b": jnp.asarray(b)} for name, (w, b) in pairs}


def prepare(
    workload: Workload,
    *,
    lanes: int | None = None,
    devices: int | None = None,
    chunk: int = 100,
    lowering: bool = True,
    data: Flat | None = None,
    seed: int = 0,
) -> Simulation:
    """Put a workload on the devices.

    Args:
      workload: one of `WORKLOADS`, or a variant of it.
      lanes: clients at the same time on a device; None lets the plan choose.
      devices: of the mesh; None for all that the cohort fills.
      chunk: rounds a dispatch at most.
      lowering: rewrite slow operations of the local step.
      data: the examples where they are at hand already.
      seed: of everything random.
    """
    task, params = task_of(workload), params_of(workload)
    plan = plans.choose(
        workload.parameters,
        workload.cohort,
        lanes=lanes,
        devices=devices,
        lowering=lowering,
        skew=plans.skew_of(workload.client_sizes()),
    )
    mesh = meshes.make_mesh(plan.devices)
    recipe = fedavg(
        optax.sgd(workload.rate),
        epochs=workload.epochs,
        batch_size=workload.batch,
        weighting="uniform",
    )
    algorithm = bind(recipe, task, plan, mesh)
    sampler = uniform(workload.cohort, workload.clients)
    host = data or flat(workload)
    rows = evaluation_rows(len(host.y))
    batch = Batch(jnp.asarray(host.x[rows]), jnp.asarray(host.y[rows]), jnp.ones(len(rows), bool))
    shards = meshes.place(shards_of(host), mesh)
    key = meshes.place(jax.random.key(seed), mesh)
    first = init_run(algorithm, sampler, key, Model(params, ()), workload.clients)
    simulate = jax.jit(
        make_simulate(algorithm, sampler, chunk=chunk),
        donate_argnums=1,
        out_shardings=meshes.replicated(mesh),
    )
    mean_loss = jax.jit(lambda model: task.loss(jax.random.key(0), model, batch)[0])

    def advance(rounds: int) -> None:
        while rounds > 0:
            now = np.int32(min(chunk, rounds))
            held.state, _ = simulate(key, held.state, now, shards)
            # Never two programs in flight: on CPU devices their collectives can wait for ever.
            jax.block_until_ready(held.state)
            rounds -= chunk

    def loss() -> float:
        assert algorithm.global_model is not None
        model = jax.device_get(algorithm.global_model(held.state.algorithm))
        return float(mean_loss(model))

    held = Simulation(workload, plan, mesh, advance, loss, meshes.place(first, mesh))
    return held


def shards_of(host: Flat) -> DeviceShards:
    """The host's arrays as the engine takes them, not on a device yet."""
    return DeviceShards(
        host.x,  # pyright: ignore[reportArgumentType] -- placed by the caller
        host.y,  # pyright: ignore[reportArgumentType]
        host.offsets.astype(np.int32),  # pyright: ignore[reportArgumentType]
        host.sizes.astype(np.int32),  # pyright: ignore[reportArgumentType]
        int(host.sizes.max()),
    )


def main() -> None:
    """Serve one workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("--lanes", type=int)
    parser.add_argument("--devices", type=int)
    parser.add_argument("--chunk", type=int, default=100)
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--no-lowering", action="store_true")
    options = parser.parse_args()
    start_backend(options.platform)
    held = prepare(
        WORKLOADS[options.workload],
        lanes=options.lanes,
        devices=options.devices,
        chunk=options.chunk,
        lowering=not options.no_lowering,
    )
    plan = dataclasses.asdict(held.plan)
    serve(held.advance, held.loss, plan=plan, chunk=options.chunk)


if __name__ == "__main__":
    main()
