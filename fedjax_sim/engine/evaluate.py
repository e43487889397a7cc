"""Evaluation is a client update too: it runs in the lane loop and trains nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import Aggregator, Algorithm, ClientUpdate, Task
from fedjax_sim.core.types import Aggregate, Array, Cohort, Context, Member, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData, DeviceShards
from fedjax_sim.engine.cohort import Work, run_cohort
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


def windows(n_examples: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a central test set into `(offsets, sizes)`, so that lanes and devices share it."""
    offsets = np.arange(0, n_examples, width)
    return offsets, np.minimum(width, n_examples - offsets)


def evaluate_global(
    task: Task, model: Model, data: DeviceShards, *, plan: Plan, mesh: Mesh, batch_size: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """One model on every window of `data`.

    Returns:
      `({metric: mean over all examples}, {metric_sum, metric_count: [N]})`.
    """
    work = Work(measure(task, None, batch_size), _totals(), lambda sent, member: sent)
    return _run(lambda hyper: work, model, (), data, plan, mesh)


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
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Every client's own model on its own window of `data`; returns as `evaluate_global`.

    `train` holds the clients' training windows, from which a personal model may be made.
    """
    if not algorithm.personal and algorithm.global_model is not None:
        model = algorithm.global_model(state)
        return evaluate_global(task, model, data, plan=plan, mesh=mesh, batch_size=batch_size)

    def model_of(ctx: Context, received: PyTree, row: PyTree, window: ClientData) -> Model:
        del window
        state, train = received
        return algorithm.model_of(ctx, state, row, train.client(ctx.member.id))

    client = measure(task, model_of, batch_size)
    work = Work(client, _totals(), lambda sent, member: sent)
    return _run(lambda hyper: work, (state, train), rows, data, plan, mesh)


def _run(
    build: Callable[[PyTree], Work],
    sent: PyTree,
    rows: PyTree,
    data: DeviceShards,
    plan: Plan,
    mesh: Mesh,
) -> tuple[dict[str, Array], dict[str, Array]]:
    cohort = everyone(data.n_clients, jnp.zeros((), jnp.int32))
    key = jax.random.key(0)
    result = run_cohort(build, (), sent, rows, cohort, data, key=key, plan=plan, mesh=mesh)
    means = {n: s / jnp.maximum(c, 1) for n, (s, c) in result.acc.items()}
    return means, result.aux


def spread(name: str, aux: dict[str, Any]) -> dict[str, Array]:
    """Mean and percentiles 10, 50, 90 of a metric over clients that hold examples."""
    total, count = aux[f"{name}_sum"], aux[f"{name}_count"]
    value = jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)
    quantiles = jnp.nanpercentile(value, jnp.array([10.0, 50.0, 90.0]))
    return {
        f"client_{name}_mean": jnp.nanmean(value),
        **{f"client_{name}_p{p}": quantiles[i] for i, p in enumerate((10, 50, 90))},
    }
