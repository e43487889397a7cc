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
      shared: what the shared model is evaluated on, cut into windows of one batch: test
        examples of the clients, client after client, then the central ones. None where no
        model is shared, or there are no such examples.
      central: the central examples where their shape is not that of the clients', or None.
      owner: int32 `[e]`, whose examples the first e rows of `shared` are; None for none.
      personal: every client's own test examples, where clients have models of their own.
    """

    shared: DeviceShards | None
    central: DeviceShards | None
    owner: Array | None
    personal: DeviceShards | None


def shards_for_device(shards: Shards) -> DeviceShards:
    """The arrays of `shards` with int32 offsets, still on the host."""
    sizes, offsets = (np.asarray(v, np.int32) for v in (shards.sizes, shards.offsets))
    arrays: list[Any] = [shards.x, shards.y, offsets, sizes]
    return DeviceShards(*arrays, longest=max(1, int(sizes.max())))


def probe_data(federation: Federation, algorithm: Algorithm, settings: Settings) -> ProbeData:
    """Host arrays for the probe; without a shared model the central set is left out.

    Cost: one copy of the test examples on the host.
    """
    own = federation.test if settings.client_eval else None
    if own is not None and own.sizes.sum() == 0:
        own = None
    central = federation.central_test if algorithm.global_model is not None else None
    if central is not None and len(central[0]) == 0:
        central = None
    personal = None
    if own is not None and (algorithm.personal or algorithm.global_model is None):
        personal, own = shards_for_device(own), None
    if own is None:
        shared = None if central is None else _flat([central], settings)
        return ProbeData(shared, None, None, personal)
    owner: Any = np.repeat(np.arange(len(own.sizes), dtype=np.int32), own.sizes)
    mine = _in_order(own)
    if central is None or not _alike(mine, central):
        other = None if central is None else _flat([central], settings)
        return ProbeData(_flat([mine], settings), other, owner, None)
    return ProbeData(_flat([mine, central], settings), None, owner, None)


def _flat(parts: list[tuple[Any, Any]], settings: Settings) -> DeviceShards:
    """Examples one after another, cut into windows of one batch."""
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    width, devices = settings.eval_batch_size, settings.devices or 1
    return shards_for_device(Shards(x, y, *evaluate.windows(len(x), width, devices)))


def _alike(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    return all(p.shape[1:] == q.shape[1:] and p.dtype == q.dtype for p, q in zip(a, b, strict=True))


def _in_order(shards: Shards) -> tuple[Any, Any]:
    """Examples client by client, without rows that are no client's."""
    begin = np.cumsum(shards.sizes) - shards.sizes
    if len(shards.x) == shards.sizes.sum() and np.array_equal(begin, shards.offsets):
        return shards.x, shards.y
    slot = np.arange(shards.sizes.sum()) - np.repeat(begin, shards.sizes)
    rows = np.repeat(shards.offsets, shards.sizes) + slot
    return shards.x[rows], shards.y[rows]


def make_probe(
    algorithm: Algorithm, task: Task, plan: Plan, mesh: Mesh, batch_size: int
) -> Callable[[Array, RunState, DeviceShards, ProbeData], dict[str, Array]]:
    """A function `(key, RunState, train, ProbeData) -> {name: scalar}` for `make_simulate`.

    Names are `test_*` for the global model on the central test set, and
    `client_*_mean/p10/p50/p90` over clients that hold test examples, each with the model it
    would use.
    """

    def shared(state: RunState, n: int, data: DeviceShards, owner: Array | None) -> Any:
        assert algorithm.global_model is not None
        model = algorithm.global_model(state.algorithm)
        each = evaluate.evaluate_examples(task, model, data, plan=plan, mesh=mesh)
        first = 0 if owner is None else owner.shape[0]
        values: dict[str, Array] = {}
        if first < data.x.shape[0]:
            central = evaluate.mean_of({name: v[first:] for name, v in each.items()})
            values |= {f"test_{name}": value for name, value in central.items()}
        return values if owner is None else values | _spreads(evaluate.by_owner(each, owner, n))

    def personal(state: RunState, train: DeviceShards, data: DeviceShards) -> dict[str, Array]:
        _, sums = evaluate.evaluate_clients(
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
        return _spreads(sums)

    def probe(
        key: Array, state: RunState, train: DeviceShards, data: ProbeData
    ) -> dict[str, Array]:
        del key
        values: dict[str, Array] = {}
        if data.shared is not None:
            values |= shared(state, train.n_clients, data.shared, data.owner)
        if data.central is not None:
            values |= shared(state, train.n_clients, data.central, None)
        return values if data.personal is None else values | personal(state, train, data.personal)

    return probe


def _spreads(sums: dict[str, Array]) -> dict[str, Array]:
    values: dict[str, Array] = {}
    for name in [n.removesuffix("_sum") for n in sums if n.endswith("_sum")]:
        values |= evaluate.spread(name, sums)
    return values
