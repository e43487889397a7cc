"""Clients that keep their batch norms, or hold the statistics fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Model, PyTree, Report
from fedjax_sim.data.batching import ClientData
from fedjax_sim.tasks import norms
from fedjax_sim.tasks.norms import Frozen, NormLeaves

FIELD = "client.batch_norm"

Client = Callable[[Task], ClientUpdate]


def norm_leaves(task: Task, policy: str) -> NormLeaves:
    """The batch norms of the task's model.

    Args:
      task: whose model is asked, by its shapes alone.
      policy: for the message.

    Raises:
      InputError: when it has none.
    """
    found = norms.find(jax.eval_shape(task.init, jax.random.key(0)))
    if not found.means:
        remedy = 'is for models with batch norm, such as model.norm = "batch" or flax BatchNorm'
        raise InputError(FIELD, policy, remedy)
    return found


class Own(NamedTuple):
    """A client's row under `local_norms`.

    Attributes:
      base: the wrapped client's row.
      leaves: its own batch norm leaves.
      begun: whether it ever trained; until then the server's are its own.
    """

    base: PyTree
    leaves: tuple[Array, ...]
    begun: Array


class OwnWork(NamedTuple):
    """The wrapped client's work, and the own leaves that the round began with."""

    base: PyTree
    leaves: tuple[Array, ...]


def own_leaves(row: Own, shared: Model, at: NormLeaves) -> tuple[Array, ...]:
    """The client's batch norm leaves; those of `shared` as long as it has none."""
    return tree.where(row.begun, row.leaves, norms.pick(shared, at.all))


def local_norms(client: Client) -> Client:
    """Keep the batch norms (statistics, scale and bias) with the client; share the rest.

    The report still tells how they moved away from the server's: the server's copy is the mean
    that a newcomer starts from and that the global model is evaluated with. It reaches no
    client that has trained before.

    Args:
      client: local training that receives a `Model`.

    Returns:
      `Task -> ClientUpdate`; a row costs the norm leaves (2 to 4 numbers a channel).

    Reference: Li et al., FedBN: Federated Learning on Non-IID Features via Local Batch
      Normalization, 2021, arXiv:2102.07623, algorithm 1. The paper's clients all take part in
      each round; here one that comes later starts from the server's copy.
    """

    def build(task: Task) -> ClientUpdate:
        base, at = client(task), norm_leaves(task, "local")

        def mine(received: Model, leaves: tuple[Array, ...]) -> Model:
            return norms.put(received, at.all, leaves)

        def init(key: Array, model: Model) -> Own:
            return Own(base.init(key, model), norms.pick(model, at.all), jnp.zeros((), bool))

        def start(ctx: Context, received: Any, row: Own, data: ClientData) -> OwnWork:
            refuse_unless(isinstance(received, Model), "local")
            leaves = own_leaves(row, received, at)
            work = base.start(ctx, mine(received, leaves), row.base, data)
            refuse_unless(isinstance(getattr(work, "model", None), Model), "local")
            return OwnWork(work, leaves)

        def step(
            ctx: Context, t: Array, work: OwnWork, received: Model, data: ClientData
        ) -> OwnWork:
            own = mine(received, work.leaves)
            return work._replace(base=base.step(ctx, t, work.base, own, data))

        def finish(
            ctx: Context, work: OwnWork, received: Model, row: Own, data: ClientData
        ) -> tuple[Report, Own]:
            report, rest = base.finish(ctx, work.base, received, row.base, data)
            trained = base.steps(ctx, data) > 0
            leaves = norms.pick(work.base.model, at.all)
            return report, Own(rest, leaves, row.begun | trained)

        return ClientUpdate(init, base.steps, start, step, finish)

    return build


def frozen_norms(client: Client, *, after: int = 0, affine: bool = False) -> Client:
    """Train on the running statistics, as in evaluation, and leave them alone.

    The gradient is then that of the function which is evaluated, on every client alike.
    Statistics need sensible values first: in rounds before `after` clients train on their
    batches' statistics, and the server averages the running ones. From a model that was
    trained or calibrated before, `after = 0` will do.

    Args:
      client: any.
      after: rounds that train as usual.
      affine: from then on scales and biases stay too. A decay of the weights that the
        optimizer adds itself still reaches them.

    Returns:
      `Task -> ClientUpdate`.

    Reference: Zhong, Chen, Chao, Making Batch Normalization Great in Federated Deep Learning,
      2023, arXiv:2303.06530 (FixBN), whose two stages these are.
    """

    def build(task: Task) -> ClientUpdate:
        base, at = client(task), norm_leaves(task, "frozen")
        fixed = client(_fixed(task, at, affine))
        if after <= 0:
            return base._replace(step=fixed.step)

        def step(ctx: Context, t: Array, work: PyTree, received: PyTree, data: ClientData) -> Any:
            late = ctx.round >= after
            return jax.lax.cond(
                late,
                lambda w: tree.as_before(fixed.step(ctx, t, w, received, data), w),
                lambda w: tree.as_before(base.step(ctx, t, w, received, data), w),
                work,
            )

        return base._replace(step=step)

    return build


def _fixed(task: Task, at: NormLeaves, affine: bool) -> Task:
    """The task whose loss is that of evaluation mode."""

    def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        if affine:
            held = tuple(jax.lax.stop_gradient(v) for v in norms.pick(model, at.affine))
            model = norms.put(model, at.affine, held)
        value, state = task.loss(key, Model(model.params, Frozen(model.state)), batch)
        refuse_unless(isinstance(state, Frozen), "frozen")
        return value, state.state

    return task._replace(loss=loss)


def refuse_unless(fine: bool, policy: str) -> None:
    """Say what a policy needs where it is not there.

    Raises:
      InputError: unless `fine`.
    """
    if not fine:
        remedies = {
            "local": "is for algorithms whose clients receive and train one plain model",
            "frozen": "needs a task whose loss takes a state marked norms.Frozen",
            "recalibrated": "needs a task whose loss takes a state marked norms.Measured",
        }
        raise InputError(FIELD, policy, remedies[policy])
