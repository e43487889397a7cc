"""The local loop, the only one: a queue of clients packed onto L lanes.

Each lane works on one client. Repeat: let m be the fewest steps left on any busy lane; run m
steps of all lanes with no mask, select or branch; then, one lane at a time, finish what
ended, fold its report, and start the next client of the queue. A lane's cost is its own
client's, never the longest of a wave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import order, tree
from fedjax_sim.core.contracts import Aggregator, ClientUpdate
from fedjax_sim.core.types import Array, Context, Member, PyTree
from fedjax_sim.data.batching import ClientData, DeviceShards
from fedjax_sim.engine.lowering import lower, rules_for
from fedjax_sim.engine.plan import Plan, refuse_oversize
from fedjax_sim.engine.unswitch import run_steps

# All lanes' work in bytes up to which refills go over all lanes at once; measured on a CPU.
_SMALL_WORK_BYTES = 256 * 1024


class Jobs(NamedTuple):
    """A device's queue, longest client first, absent ones last.

    Attributes:
      member: `Member` with leaves `[k]`.
      key: `[k]` client keys.
      steps: int32 `[k]`, 0 for absent members.
      row: int32 `[k]`, where the client's state lies in the device's `rows`.
      position: int32 `[k]`, the client's row in the cohort (out of range for padding).
    """

    member: Member
    key: Array
    steps: Array
    row: Array
    position: Array


class LaneResult(NamedTuple):
    """What one device brings home.

    Attributes:
      acc: its accumulator.
      rows: client states `[k, ...]`, 0 for absent members.
      aux: `{name: [k, ...]}` in queue order, 0 for absent members.
      executed: int32, lane steps run (idle lanes included).
    """

    acc: PyTree
    rows: PyTree
    aux: dict[str, Array]
    executed: Array


class _Pack(NamedTuple):
    """Work on L lanes; one lane carries no lane axis."""

    lanes: int

    def each(self, f: Callable[..., PyTree]) -> Callable[..., PyTree]:
        return jax.vmap(f) if self.lanes > 1 else lambda job: f(job[0])

    def take(self, work: PyTree, lane: Array) -> PyTree:
        return work if self.lanes == 1 else tree.take(work, lane)

    def put(self, work: PyTree, lane: Array, one: PyTree) -> PyTree:
        if self.lanes == 1:
            return one
        return jax.tree.map(lambda w, x: w.at[lane].set(x), work, one)


class _Carry(NamedTuple):
    job: Array  # int32 [L], index into the queue
    t: Array  # int32 [L], local step
    left: Array  # int32 [L], steps left
    busy: Array  # bool [L]
    work: PyTree
    queue: Array  # int32, next job
    rows: PyTree
    acc: PyTree
    aux: dict[str, Array]
    executed: Array


class _Bound(NamedTuple):
    """A ClientUpdate with everything but the job filled in.

    `rows` are as the round found them: read here and written elsewhere, for a table that a loop
    both reads and writes is copied whole at every turn.
    """

    client: ClientUpdate
    receive: Callable[..., PyTree]
    sent: PyTree
    data: DeviceShards
    jobs: Jobs
    rows: PyTree
    round: Array

    def setting(self, job: Array) -> tuple[Context, PyTree, ClientData]:
        member = tree.take(self.jobs.member, job)
        ctx = Context(self.jobs.key[job], self.round, member)
        return ctx, self.receive(self.sent, member), self.data.client(member.id)

    def row(self, job: Array) -> PyTree:
        return tree.take(self.rows, self.jobs.row[job])

    def start(self, job: Array) -> PyTree:
        ctx, received, data = self.setting(job)
        return self.client.start(ctx, received, self.row(job), data)

    def step(self, job: Array, t: Array, work: PyTree) -> PyTree:
        ctx, received, data = self.setting(job)
        return self.client.step(ctx, t, work, received, data)

    def finish(self, job: Array, work: PyTree) -> tuple[PyTree, PyTree]:
        ctx, received, data = self.setting(job)
        return self.client.finish(ctx, work, received, self.row(job), data)


def run_lanes(
    client: ClientUpdate,
    aggregator: Aggregator,
    receive: Callable[..., PyTree],
    sent: PyTree,
    rows: PyTree,
    jobs: Jobs,
    data: DeviceShards,
    round_index: Array,
    *,
    plan: Plan,
    cohort_size: int,
    devices: int = 1,
) -> LaneResult:
    """Run every present client of the queue to its end.

    Args:
      client: the work.
      aggregator: folds reports as clients end.
      receive: `(sent, Member) -> received`.
      sent: what the server sent, shared by all.
      rows: client states `[k, ...]`.
      jobs: the queue, longest first, absent members last.
      data: all clients' examples.
      round_index: int32.
      plan: L lanes (more than the queue is long is the same as its length), lowering.
      cohort_size: K of the whole cohort, for collecting aggregators.
      devices: how many devices do likewise, for the memory forecast.

    Cost: memory L x work + one accumulator + rows twice, as found and as left; lane steps at most
    L x (longest + total / L).
    """
    k = jobs.steps.shape[0]
    pack = _Pack(min(plan.lanes, k))
    bound = _Bound(client, receive, sent, data, jobs, rows, round_index)
    n_present = jnp.sum(jobs.member.present, dtype=jnp.int32)
    first = jnp.arange(pack.lanes, dtype=jnp.int32)
    work = tree.strong(pack.each(bound.start)(first))
    report_shape, _ = jax.eval_shape(bound.finish, first[0], pack.take(work, first[0]))
    refuse_oversize(
        "cohort",
        f"{cohort_size} reports in the aggregator",
        aggregator.bytes_held(report_shape, cohort_size),
        devices,
        "take a smaller cohort or model, fewer devices, or an aggregator that streams",
    )
    carry = _Carry(
        job=first,
        t=jnp.zeros_like(first),
        left=jobs.steps[first],
        busy=first < n_present,
        work=work,
        queue=jnp.asarray(pack.lanes, jnp.int32),
        rows=tree.zeros(rows),
        acc=aggregator.zero(report_shape, cohort_size),
        aux={n: jnp.zeros((k, *s.shape), s.dtype) for n, s in report_shape.aux.items()},
        executed=jnp.zeros((), jnp.int32),
    )
    refill = _refill(bound, aggregator, pack, n_present)
    at_once = _refill_many(bound, aggregator, n_present, cohort_size)
    fewest_at_once = _fewest_at_once(pack, tree.n_bytes(work))

    def advance(c: _Carry) -> _Carry:
        fewest = jnp.min(jnp.where(c.busy, c.left, jnp.iinfo(jnp.int32).max))
        fewest = jnp.where(jnp.any(c.busy), fewest, 0)
        work = _steps(bound, pack, plan, c, fewest)
        c = c._replace(
            work=work,
            t=c.t + fewest,
            left=c.left - fewest,
            executed=c.executed + fewest * pack.lanes,
        )
        # Loops of no or a few turns and no `cond`: its branch that keeps would copy all work.
        if pack.lanes > 1:
            c = jax.lax.while_loop(lambda c: jnp.sum(_ended(c)) >= fewest_at_once, at_once, c)
        if fewest_at_once > 1:
            c = jax.lax.while_loop(lambda c: jnp.any(_ended(c)), refill, c)
        return c

    carry = jax.lax.while_loop(lambda c: jnp.any(c.busy), advance, carry)
    return LaneResult(carry.acc, carry.rows, carry.aux, carry.executed)


def _steps(bound: _Bound, pack: _Pack, plan: Plan, c: _Carry, n: Array) -> PyTree:
    """All lanes' work n steps on, each step as the platform runs it best."""
    rules = rules_for(jax.default_backend())
    prepare = (lambda step: lower(step, rules)) if plan.lowering else (lambda step: step)
    if pack.lanes == 1:
        job = c.job[0]
        return run_steps(lambda t, w: bound.step(job, t, w), c.t[0], n, c.work, prepare)
    step_all = jax.vmap(prepare(bound.step))  # rewritten before lanes are added
    return jax.lax.fori_loop(0, n, lambda i, w: step_all(c.job, c.t + i, w), c.work)


def _fewest_at_once(pack: _Pack, work_bytes: int) -> int:
    """How many lanes must have ended for one masked pass over all of them to pay."""
    if pack.lanes > 1 and work_bytes <= _SMALL_WORK_BYTES:
        return 1
    return max(2, -(-pack.lanes // 2))


def _ended(c: _Carry) -> Array:
    return c.busy & (c.left <= 0)


def _refill(
    bound: _Bound, aggregator: Aggregator, pack: _Pack, n_present: Array
) -> Callable[[_Carry], _Carry]:
    """Finish the first ended lane and start the queue's next client on it."""
    jobs, k = bound.jobs, bound.jobs.steps.shape[0]

    def refill(c: _Carry) -> _Carry:
        lane = jnp.argmax(_ended(c)).astype(jnp.int32)
        job = c.job[lane]
        report, row = bound.finish(job, pack.take(c.work, lane))
        rows = jax.tree.map(lambda old, new: old.at[jobs.row[job]].set(new), c.rows, row)
        one = jax.tree.map(lambda x: jnp.asarray(x)[None], report)
        acc = aggregator.accumulate(c.acc, one, jobs.position[job][None])
        aux = {n: c.aux[n].at[job].set(v) for n, v in report.aux.items()}
        upcoming = jnp.minimum(c.queue, k - 1)
        work = order.after(tree.strong(bound.start(upcoming)), (acc, rows, aux))
        return c._replace(
            job=c.job.at[lane].set(upcoming),
            t=c.t.at[lane].set(0),
            left=c.left.at[lane].set(jobs.steps[upcoming]),
            busy=c.busy.at[lane].set(c.queue < n_present),
            work=pack.put(c.work, lane, work),
            queue=c.queue + 1,
            rows=rows,
            acc=acc,
            aux=aux,
        )

    return refill


def _refill_many(
    bound: _Bound, aggregator: Aggregator, n_present: Array, cohort_size: int
) -> Callable[[_Carry], _Carry]:
    """Finish every ended lane and start its next client, all lanes in one masked pass.

    Costs L x work whatever the number that ended: it pays when at least half did, as equal
    clients do, and always where all work is so small that the number of operations decides.
    """
    jobs, k = bound.jobs, bound.jobs.steps.shape[0]

    def refill(c: _Carry) -> _Carry:
        ended = _ended(c)
        report, row = jax.vmap(bound.finish)(c.job, c.work)
        silent = jnp.zeros_like(report.weight)
        report = report._replace(weight=tree.where_rows(ended, report.weight, silent))
        target = jnp.where(ended, jobs.row[c.job], k)
        place = jnp.where(ended, c.job, k)
        position = jnp.where(ended, jobs.position[c.job], cohort_size)
        rows = jax.tree.map(lambda old, new: old.at[target].set(new, mode="drop"), c.rows, row)
        aux = {n: c.aux[n].at[place].set(v, mode="drop") for n, v in report.aux.items()}
        wanted = c.queue + jnp.cumsum(ended, dtype=jnp.int32) - 1
        upcoming = jnp.minimum(wanted, k - 1)

        def start_next() -> PyTree:
            fresh = tree.strong(jax.vmap(bound.start)(upcoming))
            return tree.where_rows(ended, fresh, c.work)

        return c._replace(
            job=jnp.where(ended, upcoming, c.job),
            t=jnp.where(ended, 0, c.t),
            left=jnp.where(ended, jobs.steps[upcoming], c.left),
            busy=jnp.where(ended, wanted < n_present, c.busy),
            work=jax.lax.cond(c.queue < n_present, start_next, lambda: c.work),
            queue=c.queue + jnp.sum(ended, dtype=jnp.int32),
            rows=rows,
            acc=aggregator.accumulate(c.acc, report, position),
            aux=aux,
        )

    return refill
