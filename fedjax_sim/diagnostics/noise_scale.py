"""The gradient noise scale of a federation, and the batch and cohort it suggests.

At one model, a few clients draw two independent mini-batches each. How far a client's two
gradients differ is the noise of its examples; what they share is its own gradient; what
different clients share is the federation's. Nothing is trained.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedjax_sim.clients.sgd import Weighting, loss_and_gradient, weigh
from fedjax_sim.core import keys, tree
from fedjax_sim.core.contracts import Aggregator, ClientUpdate, Task
from fedjax_sim.core.types import Aggregate, Array, Batch, Cohort, Context, Model, PyTree, Report
from fedjax_sim.data.batching import ClientData, DeviceShards
from fedjax_sim.diagnostics.drift_statistics import CAP, capped, square_of, wide, wide_type
from fedjax_sim.engine.cohort import Work, run_cohort
from fedjax_sim.engine.plan import Plan


class Noise(NamedTuple):
    """What a probe saw; float scalars, sums of several probes where they are averaged.

    Attributes:
      trace: trace of the covariance of one example's gradient within a client, mean over clients.
      client_square: mean over clients of `|grad f_i|^2`.
      square: `|grad f|^2` of the federated objective.
      weight: 1 for one probe; 0 where fewer than two clients took part.
    """

    trace: Array
    client_square: Array
    square: Array
    weight: Array


def no_noise() -> Noise:
    """No probe yet."""
    return Noise(*(jnp.zeros(()) for _ in Noise._fields))


class Pair(NamedTuple):
    """What a client reports: its mean gradient, and what the two had apart and in common.

    Attributes:
      mean: `(g_a + g_b) / 2`, a tree.
      apart: `|g_a - g_b|^2`.
      common: `<g_a, g_b>`.
      square: `|(g_a + g_b) / 2|^2`.
    """

    mean: PyTree
    apart: Array
    common: Array
    square: Array


class _PairWork(NamedTuple):
    """Rows of both batches `[2, B]`, and the gradients of the last two steps."""

    rows: Array
    before: PyTree
    last: PyTree


class PairSums(NamedTuple):
    """Sums over clients of `w mean`, `w`, `w^2`, `w apart`, `w common`, `w^2 square`, and 1."""

    mean: PyTree
    weight: Array
    weight_squared: Array
    apart: Array
    common: Array
    square: Array
    heard: Array


def two_gradients(task: Task, batch_size: int, weighting: Weighting = "examples") -> ClientUpdate:
    """A client update of two steps that reports two mini-batch gradients at the received model.

    Batches are drawn with replacement from the client's examples, so that the two are
    independent and an example's noise does not depend on how many the client has.

    Args:
      task: what is learned; batch statistics are read and never written.
      batch_size: B.
      weighting: see `clients.sgd.weigh`.

    Cost: 2 P of work a lane.
    """

    def steps(ctx: Context, data: ClientData) -> Array:
        del ctx
        return jnp.where(data.size > 0, 2, 0).astype(jnp.int32)

    def start(ctx: Context, received: Model, row: PyTree, data: ClientData) -> _PairWork:
        del row
        key = keys.for_purpose(ctx.key, keys.Purpose.SHUFFLE)
        drawn = jax.random.randint(key, (2, batch_size), 0, jnp.maximum(data.size, 1))
        nothing = tree.zeros(received.params)
        return _PairWork(data.offset + drawn, nothing, nothing)

    def step(
        ctx: Context, t: Array, work: _PairWork, received: Model, data: ClientData
    ) -> _PairWork:
        rows = work.rows[t]
        x, y = (v.at[rows].get(mode="clip") for v in (data.x, data.y))
        batch = Batch(x, y, jnp.ones(rows.shape, bool))
        _, _, gradient = loss_and_gradient(task, ctx, t, received, batch)
        return work._replace(before=work.last, last=gradient)

    def finish(
        ctx: Context, work: _PairWork, received: Model, row: PyTree, data: ClientData
    ) -> tuple[Report, PyTree]:
        del received
        a, b = (jax.tree.map(wide, g) for g in (work.before, work.last))
        mean = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
        square, apart = square_of(mean), square_of(tree.sub(a, b))
        pair = Pair(mean, apart, square - apart / 4, square)
        weight = weigh(weighting, data.size, steps(ctx, data), ctx)
        weight = jnp.where(data.size > 0, weight, 0)
        return Report(pair, weight, jnp.zeros((), jnp.int32), {}), row

    return ClientUpdate(lambda key, model: (), steps, start, step, finish)


def pair_sums() -> Aggregator:
    """Sums of `Pair` reports, as `PairSums`."""

    def zero(report: Report, k: int) -> PairSums:
        del k
        pair: Pair = report.update
        mean = jax.tree.map(lambda s: jnp.zeros(s.shape, wide_type(s.dtype)), pair.mean)
        return PairSums(mean, *(jnp.zeros(()) for _ in PairSums._fields[1:]))

    def accumulate(acc: PairSums, reports: Report, rows: Array) -> PairSums:
        del rows
        w, pair = reports.weight, reports.update

        def folded(total: Array, values: Array, by: Array) -> Array:
            by = by.reshape(by.shape + (1,) * (values.ndim - 1))
            return total + jnp.sum(jnp.where(by > 0, by * values, 0), axis=0).astype(total.dtype)

        return PairSums(
            mean=jax.tree.map(lambda t, v: folded(t, v, w), acc.mean, pair.mean),
            weight=acc.weight + jnp.sum(w),
            weight_squared=acc.weight_squared + jnp.sum(w * w),
            apart=folded(acc.apart, pair.apart, w),
            common=folded(acc.common, pair.common, w),
            square=folded(acc.square, pair.square, w * w),
            heard=acc.heard + jnp.sum(w > 0, dtype=acc.heard.dtype),
        )

    def held(report: Report, k: int) -> int:
        del k
        return tree.n_bytes(report.update)

    return Aggregator(
        zero=zero,
        accumulate=accumulate,
        merge=None,
        finalize=lambda acc: Aggregate(acc.mean, acc.weight, acc.heard, {}),
        bytes_held=held,
    )


def estimate(sums: PairSums, batch_size: int) -> Noise:
    """Unbiased estimates from the sums over two clients or more, their weights taken as given.

    `trace = B/2 sum p_i |g_a - g_b|^2`; `client_square = sum p_i <g_a, g_b>`; and, from pairs of
    different clients only, `square = (|sum w g|^2 - sum w^2 |g|^2) / ((sum w)^2 - sum w^2)`,
    g being a client's mean of its two. The last two may come out below 0, as an unbiased
    estimate of something small must.
    """
    weight = jnp.where(sums.weight > 0, sums.weight, 1)
    pairs = sums.weight**2 - sums.weight_squared
    safe = jnp.where(pairs > 0, pairs, 1)
    known = (sums.heard >= 2) & (pairs > 0)
    found = Noise(
        trace=batch_size / 2 * sums.apart / weight,
        client_square=sums.common / weight,
        square=(square_of(sums.mean) - sums.square) / safe,
        weight=jnp.ones(()),
    )
    return jax.tree.map(lambda v: jnp.where(known, v, 0).astype(float), found)


def probe_noise(
    task: Task,
    model: Model,
    cohort: Cohort,
    data: DeviceShards,
    *,
    key: Array,
    plan: Plan,
    mesh: Mesh,
    clients: int = 4,
    batch_size: int = 10,
    weighting: Weighting = "examples",
) -> Noise:
    """The noise seen by the first present members of a cohort.

    Args:
      task: what is learned.
      model: at which.
      cohort: the first `clients` present members are asked.
      data: all clients' examples.
      key: of this probe; clients' ids are folded in.
      plan: lanes and lowering.
      mesh: the plan's devices.
      clients: k, at most.
      batch_size: B.
      weighting: how clients' gradients are averaged.

    Cost: 2 k gradients of B examples; 2 P of work a lane and one accumulator of P.
    """
    k = min(clients, cohort.members.id.shape[0])
    first = jnp.argsort(~cohort.members.present, stable=True)[:k]
    few = cohort._replace(members=tree.take(cohort.members, first))
    work = Work(two_gradients(task, batch_size, weighting), pair_sums(), lambda sent, member: sent)
    result = run_cohort(lambda _: work, (), model, (), few, data, key=key, plan=plan, mesh=mesh)
    return estimate(result.acc, batch_size)


def noise_scales(noise: Noise) -> dict[str, Array]:
    """The numbers of a round, from one `Noise` or from a sum of several.

    - `drift_noise_scale`: simple noise scale within a client, `trace / mean |grad f_i|^2`: at a
      local batch of that many examples a client's gradient has as much noise as signal;
    - `drift_noise_scale_pooled`: the same for examples drawn from all clients together,
      `(trace + variance between clients' gradients) / |grad f|^2`;
    - `drift_batch_size`: the local batch that the first suggests, a whole number.

    Where the signal is lost in the noise (an estimate of 0 or below) a scale is `CAP`.

    Reference: McCandlish et al., An Empirical Model of Large-Batch Training, 2018,
      arXiv:1812.06162, section 2.2 and appendix A.1.
    """
    between = jnp.maximum(noise.client_square - noise.square, 0)
    scale = capped(noise.trace, noise.client_square)
    return {
        "drift_noise_scale": scale,
        "drift_noise_scale_pooled": capped(noise.trace + between, noise.square),
        "drift_batch_size": jnp.clip(jnp.ceil(scale), 1, CAP),
    }


def smoothed(held: Noise, new: Noise, decay: float) -> Noise:
    """Decayed sums of probes; a probe that saw nothing (weight 0) leaves them as they are.

    The parts of a ratio are averaged, and never the ratio, whose mean is biased.
    """
    keep = jnp.where(new.weight > 0, decay, 1)
    after: Any = jax.tree.map(lambda old, more: keep * old + more, held, new)
    return tree.as_before(after, held)
