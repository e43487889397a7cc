"""Losses of local training that keep in mind what the client cannot see in its own data."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_sim.clients.kept import Kept, keep, own_model, unbegun
from fedjax_sim.clients.labels import label_counts
from fedjax_sim.clients.losses import Client, on_loss, with_outputs, with_term
from fedjax_sim.core.checks import InputError, choice
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Forward, Model, PyTree, Report
from fedjax_sim.data.batching import ClientData

_FLOOR = 1e-8  # of a count: a label that the client lacks lies 100 tau behind
_TINY = 1e-8  # of a length, so that the angle to a zero vector is 0


def calibrated(client: Client, tau: Array | float) -> Client:
    """Train on the logits `f_c - tau n_c^(-1/4)`, n_c being the client's examples of class c.

    A label of few examples needs a larger lead to count as learned; one that the client lacks is
    as good as out of the softmax, and is not unlearned. Not for losses with label smoothing, which
    ask for a little of every label, those that are out too.

    Args:
      client: local training from a received `Model`.
      tau: strength; 0 leaves the loss alone.

    Returns:
      `Task -> ClientUpdate`; a lane carries C numbers.

    Raises:
      InputError: for a task without one row of logits and one label an example.
    """

    def margins(task: Task, received: Model, row: PyTree, data: ClientData) -> Array:
        del row
        counts = label_counts(data, _classes(task, received, data))
        return tau * jnp.maximum(counts, _FLOOR) ** -0.25

    def change(task: Task, received: Model, margin: Array) -> Task:
        del received
        return with_outputs(task, lambda z: z - margin.astype(_wide(z))[None, :])

    return on_loss(client, change, margins)


def not_true(client: Client, beta: Array | float, tau: Array | float) -> Client:
    """Add `beta tau^2 KL(q_global || q)` over the classes that are not an example's label.

    `q` and `q_global` are softmaxes of the own and of the received model's logits over tau, the
    label left out: the client may learn its labels, and keeps what it was told of the others.

    Args:
      client: local training from a received `Model`.
      beta: strength; 0 leaves the loss alone.
      tau: temperature.

    Returns:
      `Task -> ClientUpdate`.

    Raises:
      InputError: for a task without one row of logits and one label an example.

    Cost: one forward pass of the received model more in every step, in evaluation mode.
    """

    def change(task: Task, received: Model, own: PyTree) -> Task:
        del own

        def term(found: Forward, model: Model, batch: Batch) -> Array:
            del model
            if found.outputs.ndim != 2 or batch.y.ndim != 1:
                raise _no_logits(found.outputs.shape)
            other = jax.lax.stop_gradient(task.predict(received, batch.x))
            mask = batch.mask[:, None]
            away = [_others(jnp.where(mask, z, 0), batch.y, tau) for z in (other, found.outputs)]
            apart = jnp.exp(away[0]) * (away[0] - away[1])
            return beta * tau**2 * jnp.sum(apart, axis=-1)

        return with_term(task, term)

    return on_loss(client, change)


def _others(outputs: Array, labels: Array, tau: Array | float) -> Array:
    """Log softmax of `outputs / tau` over the classes but each label; a large negative there."""
    z = outputs.astype(_wide(outputs)) / tau
    mine = labels[:, None] == jnp.arange(z.shape[-1], dtype=labels.dtype)[None, :]
    low = jnp.asarray(-1e30, z.dtype)
    z = jnp.where(mine, low, z)
    return jnp.where(mine, low, z - jax.nn.logsumexp(z, axis=-1, keepdims=True))


def contrastive(
    client: Client, mu: Array | float, tau: Array | float, representation: str
) -> Client:
    """Add `-mu log(e^(s_global / tau) / (e^(s_global / tau) + e^(s_own / tau)))`.

    `s_global` is the cosine between an example's representations under the trained and the
    received model, `s_own` under the trained model and the client's own of its last round. A
    client that never trained has no such model, and the term then pulls nowhere.

    Args:
      client: local training from a received `Model`, without a row.
      mu: strength; 0 leaves the loss alone.
      tau: temperature.
      representation: `features`, `Task.features`, or `outputs`.

    Returns:
      `Task -> ClientUpdate`; a row is a model and a flag, and a lane carries a model more.

    Raises:
      InputError: for `features` of a task that has none.

    Cost: two forward passes more in every step, in evaluation mode.
    """
    choice("algorithm.representation", representation, ("features", "outputs"))

    def shown(task: Task) -> Callable[[Model, Array], Array]:
        if representation == "outputs":
            return task.predict
        if task.features is None:
            remedy = 'the task shows none (Task.features); "outputs" compares its outputs'
            raise InputError("algorithm.representation", representation, remedy)
        return task.features

    def change(task: Task, received: Model, previous: Model) -> Task:
        represent = shown(task)

        def term(found: Forward, model: Model, batch: Batch) -> Array:
            now = found.outputs if representation == "outputs" else found.features
            assert now is not None, "a pass of a task with features shows them"
            del model
            alike = [
                _cosine(now, jnp.where(batch.mask[:, None], _flat(represent(m, batch.x)), 0))
                for m in (received, previous)
            ]
            return mu * jax.nn.softplus((alike[1] - alike[0]) / tau)

        return with_term(task, term)

    def own(task: Task, received: Model, row: Kept, data: ClientData) -> Model:
        del task, data
        return own_model(row, received)

    base_of = on_loss(client, change, own)

    def build(task: Task) -> ClientUpdate:
        base = base_of(task)
        shown(task)

        def init(key: Array, model: Model) -> Kept:
            del key
            return unbegun(model)

        def finish(
            ctx: Context, work: PyTree, received: Model, row: Kept, data: ClientData
        ) -> tuple[Report, Kept]:
            report, _ = base.finish(ctx, work, received, (), data)
            return report, keep(row, work.model, base.steps(ctx, data))

        return base._replace(init=init, finish=finish)

    return build


def _cosine(a: Array, b: Array) -> Array:
    """The cosine of two representations `[B, ...]`, `[B]`; 0 where one has no length."""
    a, b = (_flat(v).astype(_wide(v)) for v in (a, b))
    lengths = [jnp.maximum(jnp.sum(jnp.square(v), axis=-1), _TINY**2) for v in (a, b)]
    return jnp.sum(a * b, axis=-1) * jax.lax.rsqrt(lengths[0]) * jax.lax.rsqrt(lengths[1])


def _flat(values: Array) -> Array:
    return values.reshape(values.shape[0], -1)


def _wide(values: Array) -> jnp.dtype:
    """A float of at least 32 bits."""
    return jnp.promote_types(values.dtype, jnp.float32)


def _classes(task: Task, model: Model, data: ClientData) -> int:
    x = jax.ShapeDtypeStruct((1, *data.x.shape[1:]), data.x.dtype)
    shape = jax.eval_shape(task.predict, model, x).shape
    if len(shape) != 2 or shape[1] < 2:
        raise _no_logits(shape)
    return shape[1]


def _no_logits(shape: tuple[int, ...]) -> InputError:
    return InputError("task", list(shape), "needs outputs [B, C], logits, and one label an example")
