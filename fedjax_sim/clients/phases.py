"""Clients that go over their data more than once: first to measure, then to train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import keys, tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import WHOLE, Batches, ClientData


class PhasedWork(NamedTuple):
    """What a client carries that works in two phases.

    Attributes:
      first: work of the first phase.
      then: work of the second, as begun with what `first` says so far.
      row: the client's state, where the second phase begins anew with it; else `()`.
    """

    first: PyTree
    then: PyTree
    row: PyTree


class LossWork(NamedTuple):
    """Sums of the loss over the examples seen, `()` or `[M]` by model, and their number."""

    total: Array
    seen: Array

    @property
    def mean(self) -> Array:
        """The mean loss so far, `()` or `[M]`; 0 before the first example."""
        return self.total / jnp.maximum(self.seen, 1)


def phases(
    first: Callable[[Task], ClientUpdate],
    then: Callable[[Task], ClientUpdate],
    *,
    given: Callable[[PyTree, PyTree], PyTree] | None = None,
    anew: bool = True,
    report: Callable[[Report, PyTree, Context, ClientData], Report] | None = None,
) -> Callable[[Task], ClientUpdate]:
    """Two passes over a client's data as one client update: local steps of `first`, then of `then`.

    The draws of the second are those it would make alone, so that a first phase that changes
    nothing leaves the algorithm as it was.

    Args:
      first: its `steps`, `start` and `step` are used; it always does all of its steps.
      then: the client update whose state and report these are.
      given: `(received, work of first) -> what then receives`; all that was received by default.
      anew: whether `then.start` looks at what is `given`, so that the second phase must begin when
        the first is over. Else it begins with all that was received, which saves two copies.
      report: `(report of then, work of first, ctx, data) -> report`.

    Cost: both works are carried. With one lane each phase has its own loop (the engine takes the
    `lax.cond` on t out of it), with more lanes every step computes both.
    """

    def build(task: Task) -> ClientUpdate:
        a, b = first(task), then(task)
        later = given is not None and anew

        def narrowed(received: PyTree, work: PyTree) -> PyTree:
            return received if given is None else given(received, work)

        def steps(ctx: Context, data: ClientData) -> Array:
            return a.steps(ctx, data) + b.steps(ctx, data)

        def start(ctx: Context, received: PyTree, row: PyTree, data: ClientData) -> PhasedWork:
            work = a.start(ctx, received, (), data)
            begun = b.start(ctx, narrowed(received, work) if later else received, row, data)
            return PhasedWork(work, tree.strong(begun), row if later else ())

        def begin(ctx: Context, work: PhasedWork, got: PyTree, data: ClientData) -> PyTree:
            return tree.strong(b.start(ctx, got, work.row, data))

        def step(
            ctx: Context, t: Array, work: PhasedWork, received: PyTree, data: ClientData
        ) -> PhasedWork:
            n = a.steps(ctx, data)

            def measure(work: PhasedWork) -> PhasedWork:
                return work._replace(first=a.step(ctx, t, work.first, received, data))

            def train(work: PhasedWork) -> PhasedWork:
                got, begun = narrowed(received, work.first), work.then
                if later:
                    begun = jax.lax.cond(
                        t == n, lambda: begin(ctx, work, got, data), lambda: work.then
                    )
                return work._replace(then=b.step(ctx, t - n, begun, got, data))

            return jax.lax.cond(t < n, measure, train, work)

        def finish(
            ctx: Context, work: PhasedWork, received: PyTree, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            got, begun = narrowed(received, work.first), work.then
            if later:  # without a step it has not begun from what was chosen
                none = b.steps(ctx, data) == 0
                begun = jax.lax.cond(none, lambda: begin(ctx, work, got, data), lambda: work.then)
            said, row = b.finish(ctx, begun, got, row, data)
            return (said if report is None else report(said, work.first, ctx, data)), row

        return ClientUpdate(b.init, steps, start, step, finish)

    return build


def losses(batches: Batches | None = None, *, models: bool = False) -> Callable[..., ClientUpdate]:
    """A first phase that measures the loss on the client's examples; its work is a `LossWork`.

    Args:
      batches: `epochs=1` sees every example once; the default takes at most 100 at a time.
      models: what is received is a stack of M models, leaves `[M, ...]`: one loss for each.

    Cost: one forward pass over the examples, M with `models`, one model after another.
    """
    rule = batches or WHOLE

    def build(task: Task) -> ClientUpdate:
        def start(ctx: Context, received: Model, row: PyTree, data: ClientData) -> LossWork:
            del ctx, row, data
            nothing = jnp.zeros(())
            many = (jax.tree.leaves(received)[0].shape[0],) if models else ()
            return LossWork(jnp.zeros(many), nothing)

        def step(
            ctx: Context, t: Array, work: LossWork, received: Model, data: ClientData
        ) -> LossWork:
            words = keys.words(keys.for_purpose(ctx.key, keys.Purpose.SHUFFLE))
            batch = data.batch(rule, words, t)
            key = jax.random.fold_in(keys.for_purpose(ctx.key, keys.Purpose.LOSS), t)

            def loss(model: Model) -> Array:
                return task.loss(key, model, batch)[0]

            # One model after another, not vmapped: kernels that differ by model are slow there.
            value = jax.lax.map(loss, received) if models else loss(received)
            new = jnp.sum(batch.mask).astype(work.seen.dtype)
            total = work.total + (value * new).astype(work.total.dtype)
            return LossWork(total, work.seen + new)

        def unused(*arguments: Any) -> Any:
            raise NotImplementedError("a first phase reports nothing")

        return ClientUpdate(
            init=lambda key, model: (),
            steps=lambda ctx, data: rule.count(data.size, data.longest),
            start=start,
            step=step,
            finish=unused,
        )

    return build


def lowest(values: Array) -> Array:
    """Where the lowest of values `[M]` is, the first of equals, int32; NaN is never lowest."""
    return jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values)).astype(jnp.int32)


def loss_first(
    client: Callable[[Task], ClientUpdate],
    batches: Batches | None = None,
    *,
    report: Callable[[Report, Array, Context, ClientData], Report],
) -> Callable[[Task], ClientUpdate]:
    """Measure the mean loss at the received model over all own examples, then train.

    Args:
      client: what is done after the measurement.
      batches: how the measuring pass takes the examples; see `losses`.
      report: `(report, mean loss before training (), ctx, data) -> report`; q-FedAvg, AFL and
        TERM weigh by it.

    Cost: one forward pass more than `client`.
    """

    def change(said: Report, work: LossWork, ctx: Context, data: ClientData) -> Report:
        return report(said, work.mean, ctx, data)

    return phases(losses(batches), client, report=change)


def best_first(
    client: Callable[[Task], ClientUpdate],
    batches: Batches | None = None,
) -> Callable[[Task], ClientUpdate]:
    """Receive M models, measure all on the own examples, train the one of the lowest mean loss.

    The report goes to that model's group; `aux["group"]` says which. Ties go to the lowest.

    Args:
      client: trains the chosen `Model`.
      batches: how the measuring pass takes the examples; see `losses`.

    Cost: M forward passes more than `client`; the M models are read in every step of the first
    phase, and one is picked out of them in every step of the second.
    """

    def chosen(work: LossWork) -> Array:
        return lowest(work.total)

    def given(received: PyTree, work: LossWork) -> PyTree:
        return tree.take(received, chosen(work))

    def report(said: Report, work: LossWork, ctx: Context, data: ClientData) -> Report:
        del ctx, data
        group = chosen(work)
        return said._replace(group=group, aux=said.aux | {"group": group})

    return phases(losses(batches, models=True), client, given=given, report=report)
