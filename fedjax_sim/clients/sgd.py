"""Local training with any optax optimizer, and the plain gradient of a client's data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.clients.weights import WeightFunction, named
from fedjax_sim.core import keys, order, tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Model, PyTree, Report
from fedjax_sim.data.batching import WHOLE, Batches, ClientData, Feed

Weighting = str | WeightFunction


class LocalWork(NamedTuple):
    """What a client carries between local steps.

    Attributes:
      model: as trained so far.
      opt: the client optimizer's state.
      feed: which examples come next.
      loss_sum: sum of the loss over the examples seen.
      loss_count: number of examples seen.
      extra: named trees passed to the optimizer as extra arguments.
    """

    model: Model
    opt: PyTree
    feed: Feed
    loss_sum: Array
    loss_count: Array
    extra: dict[str, PyTree]


def _check_weighting(weighting: Weighting) -> None:
    if not callable(weighting):
        named(weighting)


def weigh(weighting: Weighting, size: Array, steps: Array, ctx: Context) -> Array:
    """A report's weight.

    Args:
      weighting: `examples` (n_i), `uniform` (1), `steps` (local steps done), `capped:N`
        (`min(n_i, N)`), `power:A` (`n_i^A`), or a function `(size, steps, ctx) -> float scalar`
        such as those of `clients.weights`.
      size: the client's number of examples.
      steps: local steps done.
      ctx: the client's context.
    """
    weight = weighting if callable(weighting) else named(weighting)
    return jnp.asarray(weight(size, steps, ctx), float)


def partial_steps(full: Array, ctx: Context) -> Array:
    """`ceil(full x work)`: a straggler does its share, at least one step of any."""
    return jnp.ceil(full * ctx.member.work - 1e-6).astype(jnp.int32)


def loss_and_gradient(
    task: Task, ctx: Context, t: Array, model: Model, batch: Batch
) -> tuple[Array, PyTree, PyTree]:
    """`(mean loss, new state, gradient of params)` of one batch, keyed by round, id, step."""
    key = jax.random.fold_in(keys.for_purpose(ctx.key, keys.Purpose.LOSS), t)

    def loss(params: PyTree) -> tuple[Array, PyTree]:
        return task.loss(key, Model(params, model.state), batch)

    (value, state), grads = jax.value_and_grad(loss, has_aux=True)(model.params)
    # What reads the parameters comes before what is made of the gradients: see `order.after`.
    return value, state, order.after(grads, grads)


def _begin(
    ctx: Context, model: Model, opt: PyTree, batches: Batches, data: ClientData
) -> LocalWork:
    words = keys.words(keys.for_purpose(ctx.key, keys.Purpose.SHUFFLE))
    nothing = jnp.zeros(())
    return LocalWork(model, opt, data.feed(batches, words), nothing, nothing, {})


def _tally(work: LocalWork, value: Array, batch: Batch) -> LocalWork:
    seen = jnp.sum(batch.mask).astype(work.loss_count.dtype)
    return work._replace(
        loss_sum=work.loss_sum + (value * seen).astype(work.loss_sum.dtype),
        loss_count=work.loss_count + seen,
    )


def _report(update: PyTree, weight: Array, work: LocalWork) -> Report:
    aux = {"loss_sum": work.loss_sum, "loss_count": work.loss_count}
    return Report(update, weight, jnp.zeros((), jnp.int32), aux)


def local(
    optimizer: Any, batches: Batches | None = None, *, weighting: Weighting = "examples"
) -> Callable[[Task], ClientUpdate]:
    """Train on the client's own data and report the decrease of its model.

    Args:
      optimizer: any optax transformation; it starts anew each round and gets the extra
        arguments named in `transforms.correction`.
      batches: how examples become steps.
      weighting: see `weigh`.

    Returns:
      `Task -> ClientUpdate`, stateless, `received` being a `Model`.
    """
    _check_weighting(weighting)
    batches = batches or Batches()
    opt = optax.with_extra_args_support(optimizer)

    def build(task: Task) -> ClientUpdate:
        def steps(ctx: Context, data: ClientData) -> Array:
            return partial_steps(batches.count(data.size, data.longest), ctx)

        def start(ctx: Context, received: Model, row: PyTree, data: ClientData) -> LocalWork:
            del row
            return _begin(ctx, received, opt.init(received.params), batches, data)

        def step(
            ctx: Context, t: Array, work: LocalWork, received: Model, data: ClientData
        ) -> LocalWork:
            batch, feed = data.next(batches, work.feed, t)
            value, state, grads = loss_and_gradient(task, ctx, t, work.model, batch)
            extra = {"anchor": received.params, "round": ctx.round, "step": t, "value": value}
            updates, opt_state = opt.update(
                grads, work.opt, work.model.params, **extra, **work.extra
            )
            params = optax.apply_updates(work.model.params, updates)
            opt_state = tree.as_before(opt_state, work.opt)
            work = work._replace(model=Model(params, state), opt=opt_state, feed=feed)
            return _tally(work, value, batch)

        def finish(
            ctx: Context, work: LocalWork, received: Model, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            weight = weigh(weighting, data.size, steps(ctx, data), ctx)
            return _report(tree.sub(received, work.model), weight, work), row

        return ClientUpdate(lambda key, model: (), steps, start, step, finish)

    return build


class GradientWork(NamedTuple):
    """Sums over the examples seen: gradient, latest state, and the tally of `LocalWork`."""

    total: PyTree
    tally: LocalWork


def mean_gradient(work: GradientWork) -> PyTree:
    """The mean over the examples seen; 0 before the first."""
    count = jnp.maximum(work.tally.loss_count, 1)
    return jax.tree.map(lambda s: s / count.astype(s.dtype), work.total)


def gradient(
    batches: Batches | None = None, *, weighting: Weighting = "examples"
) -> Callable[[Task], ClientUpdate]:
    """Report the exact gradient over the client's examples at the received model.

    Summed batch by batch at fixed params, so memory does not grow with the client.

    Args:
      batches: `epochs=1` sees every example once; the default takes at most 100 at a time.
      weighting: see `weigh`.
    """
    _check_weighting(weighting)
    batches = batches or WHOLE

    def build(task: Task) -> ClientUpdate:
        def steps(ctx: Context, data: ClientData) -> Array:
            return partial_steps(batches.count(data.size, data.longest), ctx)

        def start(ctx: Context, received: Model, row: PyTree, data: ClientData) -> GradientWork:
            del row
            total = tree.zeros(received.params)
            tally = _begin(ctx, Model((), received.state), (), batches, data)
            return GradientWork(total, tally)

        def step(
            ctx: Context, t: Array, work: GradientWork, received: Model, data: ClientData
        ) -> GradientWork:
            batch, feed = data.next(batches, work.tally.feed, t)
            model = Model(received.params, work.tally.model.state)
            value, state, grads = loss_and_gradient(task, ctx, t, model, batch)
            seen = jnp.sum(batch.mask)
            total = jax.tree.map(lambda s, g: s + g * seen.astype(g.dtype), work.total, grads)
            tally = work.tally._replace(model=Model((), state), feed=feed)
            return GradientWork(total, _tally(tally, value, batch))

        def finish(
            ctx: Context, work: GradientWork, received: Model, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            moved = tree.sub(received.state, work.tally.model.state)
            weight = weigh(weighting, data.size, steps(ctx, data), ctx)
            return _report(Model(mean_gradient(work), moved), weight, work.tally), row

        return ClientUpdate(lambda key, model: (), steps, start, step, finish)

    return build
