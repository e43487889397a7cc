"""A cohort's work, dealt to devices and lanes, and folded into one accumulator."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedjax_sim.core import keys, tree
from fedjax_sim.core.contracts import Aggregator, ClientUpdate
from fedjax_sim.core.types import Array, Cohort, Context, Member, PyTree
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine import mesh as meshes
from fedjax_sim.engine.lanes import Jobs, LaneResult, run_lanes
from fedjax_sim.engine.plan import Plan

_SMALL_LEAF = 1 << 14  # entries up to which copying a leaf is cheaper than a meeting of devices


class Work(NamedTuple):
    """What a cohort runs; built inside the device's trace, so that it may close over it."""

    client: ClientUpdate
    aggregator: Aggregator
    receive: Callable[..., PyTree]


class CohortResult(NamedTuple):
    """The outcome of a cohort's work.

    Attributes:
      acc: the merged accumulator.
      rows: client states `[K, ...]` in cohort order, 0 for absent members.
      aux: `{name: [K, ...]}` in cohort order, 0 for absent members.
      steps: int32 `[K]`, local steps done.
      executed: int32, lane steps until the last device ended, over all devices: D times the
        busiest device's, for the others wait.
      bound: int32, the fewest lane steps any packing could run.
    """

    acc: PyTree
    rows: PyTree
    aux: dict[str, Array]
    steps: Array
    executed: Array
    bound: Array


def run_cohort(
    build: Callable[[PyTree], Work],
    hyper: PyTree,
    sent: PyTree,
    rows: PyTree,
    cohort: Cohort,
    data: DeviceShards,
    *,
    key: Array,
    plan: Plan,
    mesh: Mesh,
) -> CohortResult:
    """Run the cohort's clients and merge their reports.

    Args:
      build: `hyper -> Work`, called inside each device's trace.
      hyper: numeric leaves.
      sent: what the server sent.
      rows: `[K, ...]` client states in cohort order.
      cohort: who takes part.
      data: all clients' examples.
      key: the round's key.
      plan: lanes a device, and how the step is lowered.
      mesh: D devices.
    """
    size = cohort.members.id.shape[0]
    steps = _steps(build(hyper).client, cohort, key, data)
    dealt = meshes.deal(_longest_first(steps, cohort.members.present), mesh.size)
    dealt = dealt.reshape(mesh.size, -1)

    def body(shared: PyTree, device: Array) -> tuple[PyTree, PyTree]:
        hyper, sent, rows, cohort, data, key, steps, dealt = shared
        mine = dealt[device[0]]
        work = build(hyper)
        result = run_lanes(
            work.client,
            work.aggregator,
            work.receive,
            sent,
            rows if mesh.size == 1 else tree.take(rows, jnp.minimum(mine, size - 1)),
            _jobs(cohort, key, steps, mine, mesh.size),
            data,
            cohort.round,
            plan=plan,
            cohort_size=size,
            devices=mesh.size,
        )
        merged = _merge(mesh, work.aggregator, result, mine, device[0], size)
        return merged, result.rows

    # Whatever a device needs is passed whole and it picks its part: cut by the compiler, the
    # preparation costs five collectives a round (docs/decisions/0005).
    shared = (hyper, sent, rows, cohort, data, key, steps, dealt)
    devices = jnp.arange(mesh.size, dtype=jnp.int32)
    (acc, aux, executed), rows_out = meshes.map_devices(body, mesh)(shared, devices)
    if mesh.size > 1:
        rows_out = _undeal(rows_out, dealt.reshape(-1), size)
    slots = min(plan.lanes, -(-size // mesh.size))
    return CohortResult(
        acc=acc,
        rows=rows_out,
        aux=aux,
        steps=steps,
        executed=executed,
        bound=_bound(steps, slots * mesh.size),
    )


def _merge(
    mesh: Mesh, aggregator: Aggregator, result: LaneResult, dealt: Array, device: Array, size: int
) -> tuple[PyTree, dict[str, Array], Array]:
    """`(acc, aux [K, ...], executed)` of all devices, by one sum where that is enough.

    Each entry of aux and of the table of lane steps has one device that fills it, the others add
    0. Lane steps travel in two halves, exact in float32, so that no second collective carries them.
    """
    steps = jnp.stack([result.executed >> 16, result.executed & 0xFFFF]).astype(jnp.float32)
    table = jnp.zeros((mesh.size, 2), jnp.float32).at[device].set(steps)
    summable = jax.tree.map(lambda v: v.astype(jnp.promote_types(v.dtype, jnp.int8)), result.aux)
    small = (_undeal(summable, dealt, size), table)
    if aggregator.merge is None:
        acc, (aux, table) = _sum_over(mesh, (result.acc, small))
    else:
        acc = meshes.merge_over(mesh, result.acc, aggregator.merge)
        aux, table = _sum_over(mesh, small)
    halves = table.astype(jnp.int32)
    executed = mesh.size * jnp.max(halves[:, 0] * 65536 + halves[:, 1])
    aux = jax.tree.map(lambda v, own: v.astype(own.dtype), aux, result.aux)
    return acc, aux, executed


def _sum_over(mesh: Mesh, values: PyTree) -> PyTree:
    """Sum over devices, small leaves of one dtype as one vector: devices meet once a buffer."""
    leaves, shape = jax.tree.flatten(values)
    if mesh.size == 1:
        return values
    together: dict[jnp.dtype, list[int]] = {}
    for i, leaf in enumerate(leaves):
        if leaf.size <= _SMALL_LEAF:
            together.setdefault(leaf.dtype, []).append(i)
    vectors = {d: jnp.concatenate([leaves[i].ravel() for i in at]) for d, at in together.items()}
    large = {i: v for i, v in enumerate(leaves) if v.size > _SMALL_LEAF}
    vectors, summed = meshes.merge_over(mesh, (vectors, large))
    for dtype, at in together.items():
        ends = list(itertools.accumulate(leaves[i].size for i in at))[:-1]
        for i, part in zip(at, jnp.split(vectors[dtype], ends), strict=True):
            summed[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(shape, [summed[i] for i in range(len(leaves))])


def _steps(client: ClientUpdate, cohort: Cohort, key: Array, data: DeviceShards) -> Array:
    def one(member: Member) -> Array:
        ctx = Context(keys.client_key(key, member.id), cohort.round, member)
        return client.steps(ctx, data.client(member.id))

    steps = jax.vmap(one)(cohort.members)
    return jnp.where(cohort.members.present, steps, 0).astype(jnp.int32)


def _longest_first(steps: Array, present: Array) -> Array:
    order = jnp.argsort(jnp.where(present, -steps, 1), stable=True)
    return order.astype(jnp.int32)


def _jobs(cohort: Cohort, key: Array, steps: Array, dealt: Array, devices: int) -> Jobs:
    """One device's queue, from the cohort positions `[k]` dealt to it."""
    size = steps.shape[0]
    index, real = jnp.minimum(dealt, size - 1), dealt < size
    member = tree.take(cohort.members, index)
    return Jobs(
        member=member._replace(present=member.present & real),
        key=jax.vmap(lambda i: keys.client_key(key, i))(member.id),
        steps=jnp.where(real, steps[index], 0),
        row=index if devices == 1 else jnp.arange(dealt.shape[0], dtype=jnp.int32),
        position=dealt,
    )


def _undeal(values: PyTree, dealt: Array, size: int) -> PyTree:
    def back(x: Array) -> Array:
        empty = jnp.zeros((size, *x.shape[1:]), x.dtype)
        return empty.at[dealt].set(x, mode="drop", unique_indices=True)

    return jax.tree.map(back, values)


def _bound(steps: Array, slots: int) -> Array:
    """max(longest client, total / slots) x slots: lane steps of a perfect packing."""
    total, longest = jnp.sum(steps), jnp.max(steps)
    return jnp.maximum(longest, -(-total // slots)) * slots
