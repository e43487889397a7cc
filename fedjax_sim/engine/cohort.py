"""A cohort's work, dealt to devices and lanes, and folded into one accumulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedjax_sim.core import keys, tree
from fedjax_sim.core.contracts import Aggregator, ClientUpdate
from fedjax_sim.core.types import Array, Cohort, Context, PyTree
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine import mesh as meshes
from fedjax_sim.engine.lanes import Jobs, run_lanes
from fedjax_sim.engine.plan import Plan


class Work(NamedTuple):
    """What a cohort runs; built inside the device's trace, so that it may close over it."""

    client: ClientUpdate
    aggregator: Aggregator
    receive: Callable[..., PyTree]


class CohortResult(NamedTuple):
    """The outcome of a cohort's work.

    Attributes:
      acc: the merged accumulator.
      rows: client states `[K, ...]` in cohort order.
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
    work_keys = jax.vmap(lambda i: keys.client_key(key, i))(cohort.members.id)
    steps = _steps(build(hyper).client, cohort, work_keys, data)
    dealt = meshes.deal(_longest_first(steps, cohort.members.present), mesh.size)
    jobs = _jobs(cohort, work_keys, steps, dealt, mesh.size)
    local_rows = rows if mesh.size == 1 else tree.take(rows, jnp.minimum(dealt, size - 1))

    def body(shared: PyTree, mine: PyTree) -> tuple[PyTree, PyTree]:
        hyper, sent, data, round_index = shared
        work = build(hyper)
        result = run_lanes(
            work.client,
            work.aggregator,
            work.receive,
            sent,
            mine[1],
            mine[0],
            data,
            round_index,
            plan=plan,
            cohort_size=size,
            devices=mesh.size,
        )
        acc = meshes.merge_over(mesh, result.acc, work.aggregator.merge)
        executed = mesh.size * meshes.merge_over(mesh, result.executed, jnp.maximum)
        return (acc, executed), (result.rows, result.aux)

    shared = (hyper, sent, data, cohort.round)
    (acc, executed), (rows_out, aux) = meshes.map_devices(body, mesh)(shared, (jobs, local_rows))
    if mesh.size > 1:
        rows_out = _undeal(rows_out, dealt, size)
    slots = min(plan.lanes, -(-size // mesh.size))
    return CohortResult(
        acc=acc,
        rows=rows_out,
        aux=_undeal(aux, dealt, size),
        steps=steps,
        executed=executed,
        bound=_bound(steps, slots * mesh.size),
    )


def _steps(client: ClientUpdate, cohort: Cohort, work_keys: Array, data: DeviceShards) -> Array:
    def one(key: Array, member: Any) -> Array:
        return client.steps(Context(key, cohort.round, member), data.client(member.id))

    steps = jax.vmap(one)(work_keys, cohort.members)
    return jnp.where(cohort.members.present, steps, 0).astype(jnp.int32)


def _longest_first(steps: Array, present: Array) -> Array:
    order = jnp.argsort(jnp.where(present, -steps, 1), stable=True)
    return order.astype(jnp.int32)


def _jobs(cohort: Cohort, work_keys: Array, steps: Array, dealt: Array, devices: int) -> Jobs:
    size = steps.shape[0]
    index, real = jnp.minimum(dealt, size - 1), dealt < size
    member = tree.take(cohort.members, index)
    return Jobs(
        member=member._replace(present=member.present & real),
        key=work_keys[index],
        steps=jnp.where(real, steps[index], 0),
        row=index if devices == 1 else jnp.arange(dealt.shape[0]) % (dealt.shape[0] // devices),
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
