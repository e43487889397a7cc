"""Clients whose data are a mixture of what M shared models each explain (FedEM)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.clients.responsibilities import responsibilities, summed, training_losses
from fedjax_sim.clients.sgd import Weighting, partial_steps, weigh
from fedjax_sim.core import keys, tree
from fedjax_sim.core.checks import InputError, choice, integer
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Model, PyTree, Report
from fedjax_sim.data.batching import WHOLE, Batches, ClientData, Feed

OUTPUTS = ("auto", "probabilities", "values")
_LOOK = 256  # examples from which a client that never took part finds its shares


class Shares(NamedTuple):
    """A client's row: its mixture's shares `[M]`, and in how many rounds it took part, int32."""

    pi: Array
    rounds: Array


class Mixed(NamedTuple):
    """Params of a client's mixture: the components' params `[M, ...]`, and its shares `[M]`."""

    components: PyTree
    pi: Array


class MixtureWork(NamedTuple):
    """What a client carries between local steps.

    Attributes:
      pi: the shares `[M]` that the round began with.
      total: sum of responsibilities `[M]` over the examples seen in the first pass.
      seen: their number.
      models: the components as trained so far, leaves `[M, ...]`.
      opt: their optimizers' states, leaves `[M, ...]`.
      feed: which examples come next.
      loss_sum: sum over the examples trained on of their loss, by responsibilities.
      loss_count: their number.
    """

    pi: Array
    total: Array
    seen: Array
    models: Model
    opt: PyTree
    feed: Feed
    loss_sum: Array
    loss_count: Array


def mixture(
    optimizer: Any,
    groups: int,
    batches: Batches | None = None,
    *,
    weighting: Weighting = "examples",
) -> Callable[[Task], ClientUpdate]:
    """Find which components explain which examples (E), then train each on its part (M).

    With the received components theta_m and the client's shares pi,

        q_i^m = pi_m exp(-l_i(theta_m)) / sum_m' pi_m' exp(-l_i(theta_m')),   pi_m <- mean_i q_i^m

    over all own examples, and then local steps of every component on the mean over the batch of
    `q_i^m l_i`, q as found at the received components. l_i is the task's metric `loss` of an
    example in evaluation mode where there is one, else its training loss.

    Args:
      optimizer: any optax transformation, one for each component; it starts anew each round.
      groups: M.
      batches: how examples become local steps; the E pass goes over all of them once.
      weighting: see `clients.sgd.weigh`.

    Returns:
      `Task -> ClientUpdate`; received are models `[M, ...]`, the row is a `Shares`, the
      report's update has leaves `[M, ...]`, and `aux["group"]` is the component of the
      largest share.

    Raises:
      InputError: for a model with state such as batch norm: single examples have no statistics.

    Cost: memory M x (2 P + optimizer state) a lane; M forward passes over the examples, and in each
      local step M forward passes besides M gradients, one component after another. A gradient
      is of losses of single examples, which is one wide pass for shared parameters.
    """
    m = integer("groups", groups, least=1)
    rule = batches or Batches()
    opt = optax.with_extra_args_support(optimizer)

    def build(task: Task) -> ClientUpdate:
        def init(key: Array, model: Model) -> Shares:
            del key
            _refuse_state(model)
            return Shares(jnp.full(m, 1 / m), jnp.zeros((), jnp.int32))

        def first(data: ClientData) -> Array:
            return WHOLE.count(data.size, data.longest)

        def steps(ctx: Context, data: ClientData) -> Array:
            return first(data) + partial_steps(rule.count(data.size, data.longest), ctx)

        def start(ctx: Context, received: Model, row: Shares, data: ClientData) -> MixtureWork:
            words = keys.words(keys.for_purpose(ctx.key, keys.Purpose.SHUFFLE))
            nothing = jnp.zeros(())
            return MixtureWork(
                pi=row.pi,
                total=jnp.zeros_like(row.pi),
                seen=nothing,
                models=received,
                opt=jax.vmap(opt.init)(received.params),
                feed=data.feed(rule, words),
                loss_sum=nothing,
                loss_count=nothing,
            )

        def step(
            ctx: Context, t: Array, work: MixtureWork, received: Model, data: ClientData
        ) -> MixtureWork:
            n = first(data)

            def measure(work: MixtureWork) -> MixtureWork:
                batch = data.batch(WHOLE, jnp.zeros(2, jnp.uint32), t)
                q = responsibilities(task, _loss_key(ctx, t), received, work.pi, batch)
                total, seen = summed(q, batch)
                return work._replace(total=work.total + total, seen=work.seen + seen)

            def train(work: MixtureWork) -> MixtureWork:
                return _train(task, opt, rule, ctx, t - n, work, received, data)

            return jax.lax.cond(t < n, measure, train, work)

        def finish(
            ctx: Context, work: MixtureWork, received: Model, row: Shares, data: ClientData
        ) -> tuple[Report, Shares]:
            pi = jnp.where(work.seen > 0, work.total / jnp.maximum(work.seen, 1), row.pi)
            weight = weigh(weighting, data.size, steps(ctx, data) - first(data), ctx)
            group = jnp.argmax(pi).astype(jnp.int32)
            aux = {"loss_sum": work.loss_sum, "loss_count": work.loss_count, "group": group}
            said = Report(tree.sub(received, work.models), weight, jnp.zeros((), jnp.int32), aux)
            return said, Shares(pi, row.rounds + 1)

        return ClientUpdate(init, steps, start, step, finish)

    return build


def mixed_model(
    task: Task, ctx: Context, models: Model, row: Shares, data: ClientData | None
) -> Model:
    """The mixture that a client would use; its params are a `Mixed`.

    A client that never took part finds its shares by one E pass over its own first examples, at
    most 256; without data they are the row's.

    Args:
      task: gives the losses.
      ctx: the client's context, for the losses' key.
      models: the components, leaves `[M, ...]`.
      row: the client's shares.
      data: its own training examples, or None.
    """

    def found() -> Array:
        assert data is not None
        rule = Batches(size=min(_LOOK, max(data.longest, 1)), shuffle=False)
        batch = data.batch(rule, jnp.zeros(2, jnp.uint32), jnp.int32(0))
        key = _loss_key(ctx, jnp.int32(0))
        total, seen = summed(responsibilities(task, key, models, row.pi, batch), batch)
        return jnp.where(seen > 0, total / jnp.maximum(seen, 1), row.pi)

    pi = row.pi if data is None else jax.lax.cond(row.rounds > 0, lambda: row.pi, found)
    return Model(Mixed(models.params, pi), models.state)


def predict_mixture(task: Task, outputs: str = "auto") -> Callable[[Model, Array], Array]:
    """`(Model, x) -> outputs` for models whose params are a `Mixed`.

    Args:
      task: gives each component's outputs.
      outputs: `probabilities`: outputs are logits over the last axis, and the answer is
        `log sum_m pi_m softmax(z_m)`; `values`: `sum_m pi_m z_m`; `auto`: probabilities where
        the task measures an accuracy against whole-number targets.

    Cost: M forward passes, one after another.
    """
    choice("outputs", outputs, OUTPUTS)

    def predict(model: Model, x: Array) -> Array:
        components = Model(model.params.components, model.state)
        found = jax.lax.map(lambda one: task.predict(one, x), components)  # [M, B, ...]
        pi = model.params.pi.reshape((-1,) + (1,) * (found.ndim - 1)).astype(found.dtype)
        if outputs == "values" or (outputs == "auto" and not _classifies(task, found[0], x)):
            return jnp.sum(pi * found, axis=0)
        return jax.nn.logsumexp(jax.nn.log_softmax(found, axis=-1) + jnp.log(pi), axis=0)

    return predict


def _train(
    task: Task,
    opt: Any,
    rule: Batches,
    ctx: Context,
    t: Array,
    work: MixtureWork,
    received: Model,
    data: ClientData,
) -> MixtureWork:
    """One local step of every component."""
    batch, feed = data.next(rule, work.feed, t)
    key = _loss_key(ctx, t)
    q = responsibilities(task, key, received, work.pi, batch)
    count = jnp.sum(batch.mask)

    def one(of: tuple[Model, PyTree, PyTree, Array]) -> tuple[PyTree, PyTree, Array]:
        model, state, anchor, share = of

        def objective(params: PyTree) -> Array:
            each = training_losses(task, key, Model(params, model.state), batch)
            return jnp.sum(share.astype(each.dtype) * each) / jnp.maximum(count, 1)

        value, grads = jax.value_and_grad(objective)(model.params)
        extra = {"anchor": anchor, "round": ctx.round, "step": t, "value": value}
        updates, after = opt.update(grads, state, model.params, **extra)
        params = optax.apply_updates(model.params, updates)
        return params, tree.as_before(after, state), value

    params, state, values = jax.lax.map(one, (work.models, work.opt, received.params, q.T))
    seen = count.astype(work.loss_count.dtype)
    return work._replace(
        models=work.models._replace(params=params),
        opt=state,
        feed=feed,
        loss_sum=work.loss_sum + (jnp.sum(values) * seen).astype(work.loss_sum.dtype),
        loss_count=work.loss_count + seen,
    )


def _loss_key(ctx: Context, t: Array) -> Array:
    return jax.random.fold_in(keys.for_purpose(ctx.key, keys.Purpose.LOSS), t)


def _classifies(task: Task, outputs: Array, x: Array) -> bool:
    """Whether the task measures an accuracy of these outputs against whole numbers."""

    def measure(outputs: Array, x: Array) -> dict[str, tuple[Array, Array]]:
        labels = jnp.zeros(outputs.shape[:-1], jnp.int32)
        return task.metrics(outputs, Batch(x, labels, jnp.ones(x.shape[:1], bool)))

    try:
        found = jax.eval_shape(measure, outputs, x)
    except (TypeError, ValueError):
        return False
    return "accuracy" in found


def _refuse_state(model: Model) -> None:
    if jax.tree.leaves(model.state):
        remedy = "needs losses of single examples, which batch norm has not: take norm = 'group'"
        raise InputError("model.norm", "a model with state", remedy)
