"""Evaluation is a client update too: it runs in the lane loop and trains nothing.

A shared model is evaluated on windows that pay no heed to whose examples they hold
(`evaluate_examples`): a hundred clients with three test examples each are two wide products
instead of a hundred narrow ones. Where clients have models of their own, each client's
window is a job of its own (`evaluate_clients`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import Aggregator, Algorithm, ClientUpdate, Task
from fedjax_sim.core.types import (
    Aggregate,
    Array,
    Batch,
    Cohort,
    Context,
    Member,
    Model,
    PyTree,
    Report,
)
from fedjax_sim.data.batching import Batches, ClientData, DeviceShards
from fedjax_sim.engine.cohort import CohortResult, Work, run_cohort
from fedjax_sim.engine.plan import Plan

Sums = dict[str, tuple[Array, Array]]


def measure(task: Task, model_of: Callable[..., Model] | None, batch_size: int) -> ClientUpdate:
    """A client update that sums the task's metrics over the client's window, in order.

    Args:
      task: gives `predict` and `metrics`.
      model_of: `(ctx, received, row, data) -> Model`, made once a client and carried; None
        when `received` is the model.
      batch_size: examples a step.
    """
    rule = Batches(size=batch_size, shuffle=False)
    no_words = jnp.zeros(2, jnp.uint32)

    def sums(model: Model, data: ClientData, t: Array) -> Sums:
        batch = data.batch(rule, no_words, t)
        return task.metrics(task.predict(model, batch.x), batch)

    def start(ctx: Context, received: PyTree, row: PyTree, data: ClientData) -> PyTree:
        model = () if model_of is None else model_of(ctx, received, row, data)
        shapes = jax.eval_shape(sums, received if model_of is None else model, data, jnp.int32(0))
        return model, tree.zeros(shapes)

    def step(ctx: Context, t: Array, work: PyTree, received: PyTree, data: ClientData) -> PyTree:
        del ctx
        model, total = work
        new = sums(received if model_of is None else model, data, t)
        return model, tree.add(total, new)

    def finish(
        ctx: Context, work: PyTree, received: PyTree, row: PyTree, data: ClientData
    ) -> tuple[Report, PyTree]:
        del ctx, received, data
        total = work[1]
        aux = {f"{n}_{part}": pair[i] for n, pair in total.items() for i, part in _PARTS}
        return Report(total, jnp.ones(()), jnp.zeros((), jnp.int32), aux), row

    return ClientUpdate(
        init=lambda key, model: (),
        steps=lambda ctx, data: rule.count(data.size, data.longest),
        start=start,
        step=step,
        finish=finish,
    )


_PARTS = ((0, "sum"), (1, "count"))


def measure_each(task: Task, width: int) -> ClientUpdate:
    """A client update that measures each example of its window, which is one batch.

    Its `aux` has `{metric}_sum` and `{metric}_count` as `[width]`, 0 beyond the window's end.
    The update is empty: nothing is added up here.

    Args:
      task: gives `predict` and `metrics`, whose sums must be sums over examples.
      width: examples a window at most.
    """
    rule = Batches(size=width, shuffle=False)
    no_words = jnp.zeros(2, jnp.uint32)

    def one(output: PyTree, x: Array, y: Array, mask: Array) -> Sums:
        outputs, alone = jax.tree.map(lambda leaf: leaf[None], (output, Batch(x, y, mask)))
        return task.metrics(outputs, alone)

    def values(model: Model, data: ClientData) -> dict[str, Array]:
        batch = data.batch(rule, no_words, jnp.int32(0))
        found = jax.vmap(one)(task.predict(model, batch.x), *batch)
        of_window = {
            f"{n}_{part}": jnp.where(batch.mask, pair[i], 0)
            for n, pair in found.items()
            for i, part in _PARTS
        }
        return tree.strong(of_window)

    return ClientUpdate(
        init=lambda key, model: (),
        steps=lambda ctx, data: rule.count(data.size, data.longest),
        start=lambda ctx, received, row, data: tree.zeros(jax.eval_shape(values, received, data)),
        step=lambda ctx, t, work, received, data: values(received, data),
        finish=lambda ctx, work, received, row, data: (
            Report((), jnp.ones(()), jnp.zeros((), jnp.int32), work),
            row,
        ),
    )


def _totals() -> Aggregator:
    """Plain sums of the reports' updates; a lane that has not ended reports weight 0."""

    def accumulate(acc: PyTree, reports: Report, rows: Array) -> PyTree:
        del rows
        heard = tree.where_rows(reports.weight > 0, reports.update, tree.zeros(reports.update))
        return jax.tree.map(lambda a, u: a + jnp.sum(u, axis=0), acc, heard)

    return Aggregator(
        zero=lambda report, k: tree.zeros(report.update),
        accumulate=accumulate,
        merge=None,
        finalize=lambda acc: Aggregate(acc, jnp.ones(()), jnp.zeros((), jnp.int32), {}),
        bytes_held=lambda report, k: tree.n_bytes(report.update),
    )


def everyone(n: int, round_index: Array) -> Cohort:
    """A cohort of all N clients."""
    ids = jnp.arange(n, dtype=jnp.int32)
    member = Member(ids, jnp.ones(n, bool), jnp.zeros_like(ids), jnp.ones(n))
    return Cohort(round_index, member)


def windows(n_examples: int, width: int, devices: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Cut a test set into `(offsets, sizes)`, so that lanes and devices share it.

    Args:
      n_examples: E.
      width: examples a window at most.
      devices: the number of windows is a multiple of this where there are examples enough,
        so that no device has a window more than another.

    Returns:
      int `[n]` each; all windows but the last are equally wide.
    """
    many = -(-n_examples // (width * devices)) * devices
    each = max(1, -(-n_examples // max(many, 1)))
    offsets = np.arange(0, n_examples, each)
    return offsets, np.minimum(each, n_examples - offsets)


def evaluate_global(
    task: Task, model: Model, data: DeviceShards, *, plan: Plan, mesh: Mesh, batch_size: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """One model on every window of `data`.

    Returns:
      `({metric: mean over all examples}, {metric_sum, metric_count: [N]})`.
    """
    work = Work(measure(task, None, batch_size), _totals(), lambda sent, member: sent)
    return _run(lambda hyper: work, model, (), data, plan, mesh)


def evaluate_examples(
    task: Task, model: Model, data: DeviceShards, *, plan: Plan, mesh: Mesh
) -> dict[str, Array]:
    """One model on every example of `data`.

    Args:
      task: gives `predict` and `metrics`.
      model: the model.
      data: x `[E, ...]` cut by `windows`; a window is one batch.
      plan: its devices; one window at a time on each, since a window is wide already.
      mesh: of the plan's devices.

    Returns:
      `{metric_sum, metric_count: [E]}` by example.

    Cost: 8 bytes an example and metric; activations of one window a device.
    """
    nothing = Aggregator(
        zero=lambda report, k: (),
        accumulate=lambda acc, reports, rows: acc,
        merge=None,
        finalize=lambda acc: Aggregate(acc, jnp.ones(()), jnp.zeros((), jnp.int32), {}),
        bytes_held=lambda report, k: 0,
    )
    work = Work(measure_each(task, data.longest), nothing, lambda sent, member: sent)
    alone = dataclasses.replace(plan, lanes=1)
    result = _cohort_of_all(lambda hyper: work, model, (), data, alone, mesh)
    return {n: v.reshape(-1)[: data.x.shape[0]] for n, v in result.aux.items()}


def evaluate_clients(
    algorithm: Algorithm,
    task: Task,
    state: PyTree,
    rows: PyTree,
    data: DeviceShards,
    train: DeviceShards,
    *,
    plan: Plan,
    mesh: Mesh,
    batch_size: int,
    members: Member | None = None,
    key: Array | None = None,
    round_index: Array | int = 0,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Every client's own model on its own window of `data`; returns as `evaluate_global`.

    `train` holds the clients' training windows, from which a personal model may be made.
    With `members` `[W]` it is only theirs, and `rows` are `[W, ...]`, in their order. Models that
    are made by training see the round `round_index`, and draw by its `key`.
    """
    if not algorithm.personal and algorithm.global_model is not None:
        model = algorithm.global_model(state)
        return evaluate_global(task, model, data, plan=plan, mesh=mesh, batch_size=batch_size)

    def model_of(ctx: Context, received: PyTree, row: PyTree, window: ClientData) -> Model:
        del window
        state, train = received
        return algorithm.model_of(ctx, state, row, train.client(ctx.member.id))

    client = measure(task._replace(predict=algorithm.predict), model_of, batch_size)
    work = Work(client, _totals(), lambda sent, member: sent)
    moment = (jax.random.key(0) if key is None else key, round_index)
    return _run(lambda hyper: work, (state, train), rows, data, plan, mesh, members, moment)


def _run(
    build: Callable[[PyTree], Work],
    sent: PyTree,
    rows: PyTree,
    data: DeviceShards,
    plan: Plan,
    mesh: Mesh,
    members: Member | None = None,
    moment: tuple[Array, Array | int] | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    result = _cohort_of_all(build, sent, rows, data, plan, mesh, members, moment)
    means = {n: s / jnp.maximum(c, 1) for n, (s, c) in result.acc.items()}
    return means, result.aux


def _cohort_of_all(
    build: Callable[[PyTree], Work],
    sent: PyTree,
    rows: PyTree,
    data: DeviceShards,
    plan: Plan,
    mesh: Mesh,
    members: Member | None = None,
    moment: tuple[Array, Array | int] | None = None,
) -> CohortResult:
    key, round_index = (jax.random.key(0), 0) if moment is None else moment
    cohort = everyone(data.n_clients, jnp.asarray(round_index, jnp.int32))
    if members is not None:
        cohort = cohort._replace(members=members)
    return run_cohort(build, (), sent, rows, cohort, data, key=key, plan=plan, mesh=mesh)


def by_owner(each: dict[str, Array], owner: Array, n: int) -> dict[str, Array]:
    """Sums over each client's examples.

    Args:
      each: `{name: [E, ...]}` by example; rows beyond those of `owner` are left out.
      owner: int32 `[e]`, ascending, whose example it is.
      n: N, clients.

    Returns:
      `{name: [N, ...]}`.
    """
    return {
        name: jax.ops.segment_sum(v[: owner.shape[0]], owner, n, indices_are_sorted=True)
        for name, v in each.items()
    }


def mean_of(each: dict[str, Array]) -> dict[str, Array]:
    """`{metric: sum of sums / sum of counts}` of `{metric_sum, metric_count: [E]}`."""
    names = [n.removesuffix("_sum") for n in each if n.endswith("_sum")]
    total = {n: jnp.sum(v, axis=0) for n, v in each.items()}
    return {n: total[f"{n}_sum"] / jnp.maximum(total[f"{n}_count"], 1) for n in names}
