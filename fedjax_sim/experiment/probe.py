"""What is measured on evaluation rounds, inside the compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedjax_sim.core import keys
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Algorithm, Task
from fedjax_sim.core.types import Array, Member, PyTree
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.diagnostics import fairness
from fedjax_sim.engine import evaluate
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import RunState
from fedjax_sim.experiment.direction import better
from fedjax_sim.experiment.evaluation import Evaluation, forms
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
      fitted: the same where the model is shared, and clients adapt it for an evaluation.
    """

    shared: DeviceShards | None
    central: DeviceShards | None
    owner: Array | None
    personal: DeviceShards | None
    fitted: DeviceShards | None = None


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
    asked = settings.evaluation
    if own is None and (asked.unseen or asked.adapt_epochs):
        remedy = "are of clients' own test examples: give data.test_fraction, and client_eval"
        raise InputError("evaluation.unseen and adapt_epochs", "given", remedy)
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
    mine, fitted = own.in_order(), None
    if settings.evaluation.adapt_epochs:
        fitted = shards_for_device(own)
    if central is None or not _alike(mine, central):
        other = None if central is None else _flat([central], settings)
        return ProbeData(_flat([mine], settings), other, owner, None, fitted)
    return ProbeData(_flat([mine, central], settings), None, owner, None, fitted)


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
    *,
    evaluation: Evaluation = Evaluation(),  # noqa: B008 - frozen
    unseen: np.ndarray | None = None,
) -> Callable[[Array, RunState, DeviceShards, ProbeData], dict[str, Array]]:
    """A function `(key, RunState, train, ProbeData) -> {name: scalar}` for `make_simulate`.

    Names are `test_*` for the global model on the central test set; `client_*_mean`, `_p10`,
    `_p50`, `_p90`, `_std`, `_worst10`, `_cvar`, `_jain`, `_gini` (see `diagnostics.fairness`)
    over clients that hold test examples, each with the model it would use; and `group_*_min`
    (`_max` of a loss) and `group_*_gap` over the means of clients' groups. Where data change
    with the round, all are of the round just done, but clients count in their first group.
    For `client_adapted_*` and `unseen_*` see `Evaluation`.

    Args:
      algorithm: gives the models.
      task: gives predictions and metrics.
      plan: lanes and devices.
      mesh: the plan's devices.
      batch_size: examples an evaluation step, for clients' own models.
      groups: int `[N]`, each client's group, or None.
      evaluation: what is asked beside.
      unseen: bool `[N]`, who never takes part, or None.
    """
    asked = forms(algorithm, task, evaluation)

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
        return values | spreads(evaluate.by_owner(each, owner, n), groups, unseen)

    def personal(
        key: Array,
        state: RunState,
        train: DeviceShards,
        data: DeviceShards,
        asked: dict[str, Algorithm],
    ) -> dict[str, Array]:
        size, done = min(batch_size, data.longest), jnp.maximum(state.round - 1, 0)
        sums = evaluate_forms(
            asked, task, state.algorithm, state.rows, data, train, plan, mesh, size, key, done
        )
        return spreads(sums, groups, unseen)

    def probe(
        key: Array, state: RunState, train: DeviceShards, data: ProbeData
    ) -> dict[str, Array]:
        values: dict[str, Array] = {}
        done = jnp.maximum(state.round - 1, 0)
        train = train.at(done)
        if data.shared is not None:
            values |= shared(state, train.n_clients, data.shared, data.owner)
        if data.central is not None:
            values |= shared(state, train.n_clients, data.central, None)
        if data.fitted is not None:
            after = {prefix: form for prefix, form in asked.items() if prefix}
            values |= personal(key, state, train, data.fitted, after)
        own = data.personal
        if own is None:
            return values
        return values | personal(key, state, train, own.at(done), asked)

    return probe


def evaluate_forms(
    asked: dict[str, Algorithm],
    task: Task,
    state: PyTree,
    rows: PyTree,
    data: DeviceShards,
    train: DeviceShards,
    plan: Plan,
    mesh: Mesh,
    batch_size: int,
    key: Array,
    done: Array,
    members: Member | None = None,
) -> dict[str, Array]:
    """Sums by client of each form of an algorithm, `{prefix metric_sum, ...: [N]}`.

    Args:
      asked: what `evaluation.forms` gave; all else goes to `engine.evaluate.evaluate_clients`.
      task: gives the metrics.
      state: the algorithm's.
      rows: client states.
      data: what clients are evaluated on.
      train: their training windows.
      plan: lanes and devices.
      mesh: the plan's devices.
      batch_size: examples a step.
      key: the run's.
      done: int32, the round just done, from 0.
      members: whom, or None for all.
    """
    found: dict[str, Array] = {}
    for prefix, form in asked.items():
        _, sums = evaluate.evaluate_clients(
            form,
            task,
            state,
            rows,
            data,
            train,
            plan=plan,
            mesh=mesh,
            batch_size=batch_size,
            members=members,
            key=keys.round_key(key, done),
            round_index=done,
        )
        found |= {f"{prefix}{name}": value for name, value in sums.items()}
    return found


def spreads(
    sums: dict[str, Array], groups: np.ndarray | None, unseen: np.ndarray | None = None
) -> dict[str, Array]:
    """How the metrics fall on clients and groups, from `{metric_sum, metric_count: [N]}`.

    Where some are `unseen`, bool `[N]`, what is told of clients and groups leaves them out, and
    the same is told of them alone as `unseen_*`.
    """
    if unseen is None:
        return _spreads("client", sums, groups)
    seen, others = (
        {n: jnp.where(who, v, 0) for n, v in sums.items()}
        for who in (jnp.asarray(~unseen), jnp.asarray(unseen))
    )
    return _spreads("client", seen, groups) | _spreads("unseen", others, None)


def _spreads(whose: str, sums: dict[str, Array], groups: np.ndarray | None) -> dict[str, Array]:
    names = [n.removesuffix("_sum") for n in sums if n.endswith("_sum")]
    if not names:
        return {}
    holds = {n: sums[f"{n}_count"] > 0 for n in names}
    of_client = {n: sums[f"{n}_sum"] / jnp.maximum(sums[f"{n}_count"], 1) for n in names}
    signs = {n: better(n) for n in names}
    found = fairness.spreads(of_client, holds, signs)
    values = {f"{whose}_{n}_{what}": v for n in names for what, v in found[n].items()}
    if groups is not None:
        kinds, ids = np.unique(groups, return_inverse=True)
        for n in names:
            of_groups = fairness.parity(of_client[n], holds[n], ids, len(kinds), direction=signs[n])
            values |= {f"group_{n}_{what}": v for what, v in of_groups.items()}
    return values
