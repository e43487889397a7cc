"""Clients that keep their batch norms, or hold the statistics fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from fedjax_sim.clients.keep import OwnPart, PartWork, keep
from fedjax_sim.core import parts, tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.parts import Rule
from fedjax_sim.core.types import Array, Batch, Context, Forward, Model, PyTree
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


def of_norms(rule: Rule = "norms") -> Callable[[Model], Model]:
    """A function that masks normalisations: params by a rule, and statistics of batch norms.

    It raises an `InputError` for a model without normalisations.

    Args:
      rule: of params; see `core.parts.Rule`.
    """

    def where(model: Model) -> Model:
        found = norm_mask(model, norms.find(model))
        try:
            return found._replace(params=parts.mask(model.params, rule))
        except InputError:
            if rule != "norms":
                raise
            if any(jax.tree.leaves(found.state)):  # statistics without scale and bias
                return found
            remedy = 'needs a model with normalisations, such as model.norm = "batch" or "group"'
            raise InputError("algorithm.name", "fedbn", remedy) from None

    return where


def norm_mask(model: Model, at: NormLeaves) -> Model:
    """A mask of the batch norms at these positions: affine and statistics."""
    leaves, structure = jax.tree.flatten(model)
    return jax.tree.unflatten(structure, [i in at.all for i in range(len(leaves))])


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
        at = norm_leaves(task, "local")
        kept = keep(client, lambda model: norm_mask(model, at), tell=True)(task)

        def start(ctx: Context, received: Any, row: OwnPart, data: ClientData) -> PartWork:
            refuse_unless(isinstance(received, Model), "local")
            work = kept.start(ctx, received, row, data)
            refuse_unless(isinstance(getattr(work.base, "model", None), Model), "local")
            return work

        return kept._replace(start=start)

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
    """The task whose loss, and the pass to it, are those of evaluation mode."""

    def frozen(model: Model) -> Model:
        if affine:
            held = tuple(jax.lax.stop_gradient(v) for v in norms.pick(model, at.affine))
            model = norms.put(model, at.affine, held)
        return Model(model.params, Frozen(model.state))

    def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        value, state = task.loss(key, frozen(model), batch)
        refuse_unless(isinstance(state, Frozen), "frozen")
        return value, state.state

    def forward(key: Array, model: Model, batch: Batch) -> Forward:
        assert task.forward is not None
        found = task.forward(key, frozen(model), batch)
        refuse_unless(isinstance(found.state, Frozen), "frozen")
        return found._replace(state=found.state.state)

    return task._replace(loss=loss, forward=task.forward and forward)


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
