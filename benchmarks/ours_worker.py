"""W1 in fedjax_sim: the rounds of a block in one dispatch."""

from __future__ import annotations

import sys

from fedjax_sim.engine.mesh import cores_as_devices

cores_as_devices()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from worker import serve  # noqa: E402
from workloads import WORKLOADS, examples, initial  # noqa: E402

from fedjax_sim.algorithms.fedavg import fedavg  # noqa: E402
from fedjax_sim.core.types import Model  # noqa: E402
from fedjax_sim.data.batching import DeviceShards  # noqa: E402
from fedjax_sim.engine import mesh as meshes  # noqa: E402
from fedjax_sim.engine import plan as plans  # noqa: E402
from fedjax_sim.engine.bind import bind  # noqa: E402
from fedjax_sim.engine.simulate import init_run, make_simulate  # noqa: E402
from fedjax_sim.sampling.uniform import uniform  # noqa: E402
from fedjax_sim.tasks import from_loss  # noqa: E402


def network(params: list, x: jax.Array) -> jax.Array:
    """Dense layers with ReLU between them."""
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    return x @ params[-1][0] + params[-1][1]


def cross_entropy(params: list, x: jax.Array, y: jax.Array) -> jax.Array:
    """One loss an example."""
    return optax.softmax_cross_entropy_with_integer_labels(network(params, x), y)


def main(name: str, lanes: int | None, rounds: int | None) -> None:
    """Serve one workload; `rounds` a dispatch, by default the whole block."""
    workload = WORKLOADS[name]
    rounds = rounds or workload.rounds
    x, y = examples(workload)
    n, each = y.shape
    params = jax.tree.map(jnp.asarray, initial(workload))
    task = from_loss(lambda key: params, cross_entropy, predict=network)
    size = sum(w.size for w in jax.tree.leaves(params))
    plan = plans.choose(size, workload.cohort, lanes=lanes)
    mesh = meshes.make_mesh(plan.devices)
    recipe = fedavg(
        optax.sgd(workload.rate), epochs=1, batch_size=workload.batch, weighting="uniform"
    )
    algorithm, sampler = bind(recipe, task, plan, mesh), uniform(workload.cohort, n)
    flat = DeviceShards(
        jnp.asarray(x.reshape(n * each, -1)),
        jnp.asarray(y.reshape(-1)),
        jnp.arange(n, dtype=jnp.int32) * each,
        jnp.full(n, each, jnp.int32),
        each,
    )
    data = meshes.place(flat, mesh)
    key = meshes.place(jax.random.key(0), mesh)
    state = meshes.place(init_run(algorithm, sampler, key, Model(params), n), mesh)
    whole = meshes.replicated(mesh)
    simulate = jax.jit(
        make_simulate(algorithm, sampler, chunk=rounds), donate_argnums=1, out_shardings=whole
    )
    held = {"state": state}

    def block() -> None:
        for _ in range(-(-workload.rounds // rounds)):
            held["state"], _ = simulate(key, held["state"], np.int32(rounds), data)
        jax.block_until_ready(held["state"])

    def loss() -> float:
        model = jax.device_get(algorithm.global_model(held["state"].algorithm))
        return float(jnp.mean(cross_entropy(model.params, flat.x, flat.y)))

    serve(block, loss, workload.rounds)


if __name__ == "__main__":
    numbers = [int(a) if a != "auto" else None for a in sys.argv[2:4]]
    main(sys.argv[1], *[*numbers, None, None][:2])
