"""What is measured on evaluation rounds, inside the compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from fedjax_sim.core.contracts import Algorithm, Task
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.engine import evaluate
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import RunState
from fedjax_sim.experiment.settings import Settings


class ProbeData(NamedTuple):
    """What is evaluated on.

    Attributes:
      central: the central test set cut into windows of one batch, or None.
      clients: every client's own test examples, or None.
    """

    central: DeviceShards | None
    clients: DeviceShards | None


def shards_for_device(shards: Shards) -> DeviceShards:
    """The arrays of `shards` with int32 offsets, still on the host."""
    sizes, offsets = (np.asarray(v, np.int32) for v in (shards.sizes, shards.offsets))
    arrays: list[Any] = [shards.x, shards.y, offsets, sizes]
    return DeviceShards(*arrays, longest=max(1, int(sizes.max())))


def probe_data(federation: Federation, algorithm: Algorithm, settings: Settings) -> ProbeData:
    """Host arrays for the probe; without a shared model the central set is left out."""
    central = clients = None
    test = federation.central_test
    if test is not None and len(test[0]) and algorithm.global_model is not None:
        offsets, sizes = evaluate.windows(len(test[0]), settings.eval_batch_size)
        central = shards_for_device(Shards(test[0], test[1], offsets, sizes))
    own = federation.test
    if settings.client_eval and own is not None and own.sizes.sum() > 0:
        clients = shards_for_device(own)
    return ProbeData(central, clients)


def make_probe(
    algorithm: Algorithm, task: Task, plan: Plan, mesh: Mesh, batch_size: int
) -> Callable[[Array, RunState, DeviceShards, ProbeData], dict[str, Array]]:
    """A function `(key, RunState, train, ProbeData) -> {name: scalar}` for `make_simulate`.

    Names are `test_*` for the global model on the central test set, and
    `client_*_mean/p10/p50/p90` over clients that hold test examples, each with the model it
    would use.
    """

    def central(state: RunState, data: DeviceShards) -> dict[str, Array]:
        assert algorithm.global_model is not None
        model = algorithm.global_model(state.algorithm)
        width = min(batch_size, data.longest)
        means, _ = evaluate.evaluate_global(
            task, model, data, plan=plan, mesh=mesh, batch_size=width
        )
        return {f"test_{name}": value for name, value in means.items()}

    def clients(state: RunState, train: DeviceShards, data: DeviceShards) -> dict[str, Array]:
        means, aux = evaluate.evaluate_clients(
            algorithm,
            task,
            state.algorithm,
            state.rows,
            data,
            train,
            plan=plan,
            mesh=mesh,
            batch_size=min(batch_size, data.longest),
        )
        values: dict[str, Any] = {}
        for name in means:
            values |= evaluate.spread(name, aux)
        return values

    def probe(
        key: Array, state: RunState, train: DeviceShards, data: ProbeData
    ) -> dict[str, Array]:
        del key
        values = {} if data.central is None else central(state, data.central)
        return values if data.clients is None else values | clients(state, train, data.clients)

    return probe
