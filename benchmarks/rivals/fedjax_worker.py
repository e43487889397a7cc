"""A workload in FedJAX: its own federated_averaging over for_each_client.

    python benchmarks/rivals/fedjax_worker.py NAME [--backend jit|pmap]

`pmap` uses both cores as devices; `jit` trains one client after the other with XLA's threads.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from architectures import Conv
from worker import evaluation_rows, serve
from workloads import WORKLOADS, Workload, flat, initial


def network(workload: Workload) -> Any:
    """`(params, x) -> logits`, on the common weights' layout."""
    import jax
    from jax import lax

    def apply(params: Any, x: Any) -> Any:
        last = len(params) - 1
        for i, (layer, (weight, bias)) in enumerate(zip(workload.layers, params, strict=True)):
            if isinstance(layer, Conv):
                order = ("NHWC", "HWIO", "NHWC")
                x = lax.conv_general_dilated(
                    x, weight, (1, 1), layer.padding, dimension_numbers=order
                )
                x = x + bias
                if layer.pool:
                    n, h, w, c = x.shape
                    x = x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
            else:
                x = x.reshape(x.shape[0], -1) @ weight + bias
            if i < last:
                x = jax.nn.relu(x)
        return x

    return apply


def build(workload: Workload) -> tuple[Any, Any]:
    """`(run, loss)`."""
    import fedjax
    import jax
    import jax.numpy as jnp

    apply = network(workload)

    def mean_loss(params: Any, x: Any, y: Any) -> Any:
        chosen = jnp.take_along_axis(jax.nn.log_softmax(apply(params, x)), y[:, None], 1)
        return -jnp.mean(chosen)

    def gradient(params: Any, batch: Any, key: Any) -> Any:
        del key
        return jax.grad(mean_loss)(params, batch["x"], batch["y"])

    data = flat(workload)
    windows = zip(data.offsets, data.sizes, strict=True)
    clients = {
        b"%06d" % i: {"x": data.x[a : a + n], "y": data.y[a : a + n]}
        for i, (a, n) in enumerate(windows)
    }
    sampler = fedjax.client_samplers.UniformGetClientSampler(
        fedjax.InMemoryFederatedData(clients), num_clients=workload.cohort, seed=0
    )
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        gradient,
        fedjax.optimizers.sgd(workload.rate),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=workload.batch, num_epochs=workload.epochs),
    )
    start = [(jnp.asarray(w), jnp.asarray(b)) for w, b in initial(workload)]
    held = {"state": algorithm.init(start)}
    rows = evaluation_rows(len(data.y))
    batch = jnp.asarray(data.x[rows]), jnp.asarray(data.y[rows])
    measured = jax.jit(mean_loss)

    def run(rounds: int) -> None:
        for _ in range(rounds):
            held["state"], _ = algorithm.apply(held["state"], sampler.sample())
        jax.block_until_ready(held["state"].params)

    return run, lambda: float(measured(held["state"].params, *batch))


def main() -> None:
    """Serve one workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("--backend", choices=("jit", "pmap"), default="jit")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    if options.backend == "pmap":
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={cores}"
    import fedjax

    fedjax.set_for_each_client_backend(options.backend)
    np.random.seed(0)  # noqa: NPY002 -- FedJAX's shuffles draw from it
    run, loss = build(WORKLOADS[options.workload])
    serve(run, loss, backend=options.backend)


if __name__ == "__main__":
    main()
