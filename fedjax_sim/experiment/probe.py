"""What is measured on evaluation rounds, inside the compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedjax_sim.core.contracts import Algorithm, Task
from fedjax_sim.core.types import Array
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.diagnostics import fairness
from fedjax_sim.engine import evaluate
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import RunState
from fedjax_sim.experiment.direction import better
from fedjax_sim.experiment.settings import Settings


class ProbeData(NamedTuple):
    """What is evaluated on.

    Attributes:
      shared: what the shared model is evaluated on, cut into windows of one batch: test
        examples of the clients, client after client, then the central ones. None where no
        model is shared, or there are no such examples.
      central: the central examples where their shape is not that of the clients', or None.
      owner: int32 `[e]`, whose examples the first e rows of `shared` are; None for none.
      personal: every client's own test examples, where clients have models of their own or
        their examples change with the round.
    """

    shared: DeviceShards | None
    central: DeviceShards | None
    owner: Array | None
    personal: DeviceShards | None


def shards_for_device(shards: Shards) -> DeviceShards:
    """The arrays of `shards` with int32 offsets, still on the host."""
    sizes, offsets = (np.asarray(v, np.int32) for v in (shards.sizes, shards.offsets))
    arrays: list[Any] = [shards.x, shards.y, offsets, sizes]
    whole: Any = lambda v: None if v is None else np.asarray(v, np.int32)  # noqa: E731
    stages, rounds = whole(shards.stages), whole(shards.stage_rounds)
    longest = max(1, int(sizes.max()))
    return DeviceShards(*arrays, longest=longest, stages=stages, stage_rounds=rounds)


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
    changing = own is not None and own.stages is not None
    if own is not None and (changing or algorithm.personal or algorithm.global_model is None):
        personal, own = shards_for_device(own), None
    if own is None:
        shared = None if central is None else _flat([central], settings)
        return ProbeData(shared, None, None, personal)
    owner: Any = np.repeat(np.arange(len(own.sizes), dtype=np.int32), own.sizes)
    mine = own.in_order()
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


def make_probe(
    algorithm: Algorithm,
    task: Task,
    plan: Plan,
    mesh: Mesh,
    batch_size: int,
    groups: np.ndarray | None = None,
) -> Callable[[Array, RunState, DeviceShards, ProbeData], dict[str, Array]]:
    """A function `(key, RunState, train, ProbeData) -> {name: scalar}` for `make_simulate`.

    Names are `test_*` for the global model on the central test set; `client_*_mean`, `_p10`,
    `_p50`, `_p90`, `_std`, `_worst10`, `_cvar`, `_jain`, `_gini` (see `diagnostics.fairness`)
    over clients that hold test examples, each with the model it would use; and `group_*_min`
    (`_max` of a loss) and `group_*_gap` over the means of clients' groups. Where data change
    with the round, all are of the round just done, but clients count in their first group.

    Args:
      algorithm: gives the models.
      task: gives predictions and metrics.
      plan: lanes and devices.
      mesh: the plan's devices.
      batch_size: examples an evaluation step, for clients' own models.
      groups: int `[N]`, each client's group, or None.
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
        if owner is None:
            return values
        return values | spreads(evaluate.by_owner(each, owner, n), groups)

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
        return spreads(sums, groups)

    def probe(
        key: Array, state: RunState, train: DeviceShards, data: ProbeData
    ) -> dict[str, Array]:
        del key
        values: dict[str, Array] = {}
        done = jnp.maximum(state.round - 1, 0)
        train = train.at(done)
        if data.shared is not None:
            values |= shared(state, train.n_clients, data.shared, data.owner)
        if data.central is not None:
            values |= shared(state, train.n_clients, data.central, None)
        own = data.personal
        return values if own is None else values | personal(state, train, own.at(done))

    return probe


def spreads(sums: dict[str, Array], groups: np.ndarray | None) -> dict[str, Array]:
    """How the metrics fall on clients and groups, from `{metric_sum, metric_count: [N]}`."""
    names = [n.removesuffix("_sum") for n in sums if n.endswith("_sum")]
    if not names:
        return {}
    holds = {n: sums[f"{n}_count"] > 0 for n in names}
    of_client = {n: sums[f"{n}_sum"] / jnp.maximum(sums[f"{n}_count"], 1) for n in names}
    signs = {n: better(n) for n in names}
    found = fairness.spreads(of_client, holds, signs)
    values = {f"client_{n}_{what}": v for n in names for what, v in found[n].items()}
    if groups is not None:
        kinds, ids = np.unique(groups, return_inverse=True)
        for n in names:
            of_groups = fairness.parity(of_client[n], holds[n], ids, len(kinds), direction=signs[n])
            values |= {f"group_{n}_{what}": v for what, v in of_groups.items()}
    return values
