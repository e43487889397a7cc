"""A server that teaches its models what its clients' models think of a public set (FedDF)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.core import keys, tree
from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model, PyTree
from fedjax_sim.data.public import public_set, public_steps, public_window
from fedjax_sim.server.consensus import architecture_model
from fedjax_sim.server.many import step_each
from fedjax_sim.server.optimizer import ServerState, first_state, rescaled
from fedjax_sim.tasks import mixed
from fedjax_sim.tasks.teaching import Taught, towards


def server_distils(
    optimizer: optax.GradientTransformation,
    public: Any,
    *,
    architectures: int = 1,
    steps: int = 100,
    batch: int = 128,
    shuffle: bool = True,
    ids: Any = None,
) -> ServerUpdate:
    """Average the models of each architecture, then distil the mean of all clients' outputs.

    The teacher is the plain mean over all heard clients of their models' outputs; each
    architecture's mean model takes `steps` steps towards it, on the divergence
    `KL(softmax(teacher), softmax(student))`, also where nobody of the round has it.

    Args:
      optimizer: of the distillation; it starts anew each round.
      public: inputs `[Q, ...]`.
      architectures: A, those of the model.
      steps: of the distillation; 0 leaves the means as they are.
      batch: public examples a step.
      shuffle: False takes them in their order.
      ids: see `server.consensus.architecture_model`.

    Returns:
      A server for reports `Taught`, grouped by architecture; its `models` have leaves `[A, ...]`.

    Raises:
      InputError: naming the field.

    Cost: A x P; A x `steps` gradients of the server's, one architecture after another.
    """
    many = integer("algorithm.architectures", architectures, least=1)
    wanted_steps = integer("algorithm.distill_steps", steps, least=0)
    plain = optax.sgd(1.0)

    def init(model: Model, n_clients: int) -> ServerState:
        if (found := mixed.n_architectures(model)) != many:
            raise InputError("algorithm.architectures", many, f"must be {found}, as of the model")
        if ids is not None and len(ids) != n_clients:
            remedy = f"must be one a client: {n_clients}"
            raise InputError("algorithm.networks", f"{len(ids)} of them", remedy)
        return jax.vmap(lambda one: first_state(plain, one))(mixed.in_rows(model))

    def receive(sent: Model, member: Member) -> Model:
        return architecture_model(_as_given(sent), member, ids)

    def update(state: ServerState, aggregate: Aggregate, key: Array) -> ServerState:
        said: Taught = aggregate.update
        means = step_each(plain, state, aggregate._replace(update=said.model))
        if not wanted_steps:
            return means
        weight = aggregate.aux["group_weight"].astype(said.scores.dtype)[:, None, None]
        teacher = jnp.sum(weight * said.scores, axis=0) / jnp.maximum(aggregate.n_present, 1)
        x = public_set(public)
        rule = public_steps("algorithm.distill", wanted_steps, batch, len(x), shuffle=shuffle)
        window, off = public_window(x, teacher), towards(said.speaker.task, "divergence")

        def taught(model: Model) -> Model:
            def once(t: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
                params, opt = carry
                shown = window.batch(rule, keys.words(key), t)
                _, grads = off(model._replace(params=params), shown.x, shown.y)
                step, after = optimizer.update(grads, opt, params)
                return optax.apply_updates(params, step), tree.as_before(after, opt)

            begun = tree.strong((model.params, optimizer.init(model.params)))
            return model._replace(params=jax.lax.fori_loop(0, wanted_steps, once, begun)[0])

        models = jax.lax.map(taught, means.model)
        return tree.where(aggregate.weight > 0, means._replace(model=models), state)

    return ServerUpdate(
        init=init,
        send=lambda state: state.model,
        receive=receive,
        update=update,
        model=lambda state: _as_given(state.model),
        rescale=rescaled,
        models=lambda state: state.model,
    )


def _as_given(rows: Model) -> Model:
    """The model of all architectures; where there are no several, its only row."""
    if isinstance(rows.state, mixed.Architecture):
        return rows
    return tree.take(rows, jnp.int32(0))
