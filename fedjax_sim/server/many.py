"""A server that keeps M models, each with an optimizer of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError, choice, integer, number
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.keys import fold_in
from fedjax_sim.core.types import Aggregate, Array, Member, Model, PyTree
from fedjax_sim.server.optimizer import ServerState, apply_aggregate, first_state, rescaled

STARTS = ("fresh", "perturbed", "same")

GroupOf = Callable[[Member], Array]


class Own(NamedTuple):
    """What a client receives that knows its group: the group's model, and which group it is."""

    model: Model
    group: Array


def server_many(
    optimizer: optax.GradientTransformation,
    groups: int,
    *,
    start: str | Model = "fresh",
    spread: Array | float = 0.1,
    rates: Any = None,
    share: bool = False,
    of: GroupOf | None = None,
) -> ServerUpdate:
    """M models `[M, ...]`, each stepped by `optimizer` on its own group's aggregate.

    A group that nobody reported to keeps its model and its optimizer's state to the bit.

    Args:
      optimizer: applied to each group's decrease, with a state a group.
      groups: M.
      start: the models before round 0. `fresh`: the given one and M - 1 that the task draws;
        `perturbed`: the given one and M - 1 copies of it with noise; `same`: M copies; or
        a `Model` of leaves `[M, ...]`, which takes the place of the given one.
      spread: standard deviation of a perturbation, for each coordinate.
      rates: `[M]` factors by which each group's steps are longer; 1 for all by default.
      share: multiply a group's aggregate by its share of the total weight, so that a step
        of one group is as long as its part of a step of all.
      of: `(Member) -> int32` group of a client; the client then receives its group's `Own`
        alone. By default it receives all M models, stacked.

    Raises:
      InputError: naming the field.

    Cost: M x (P + optimizer state) memory; M steps of the optimizer a round.
    """
    m = integer("groups", groups, least=1)
    number("spread", spread, least=0)
    if isinstance(start, str):
        choice("start", start, STARTS)

    def init(model: Model, n_clients: int) -> ServerState:
        del n_clients
        models = _copies(model, m) if isinstance(start, str) else _given(start, model, m)
        return with_rates(jax.vmap(lambda one: first_state(optimizer, one))(models), rates)

    def draw(key: Array, of_task: Callable[[Array], Model], state: ServerState) -> ServerState:
        """Other models than the first; optimizer states are made anew for them."""
        others = [jnp.uint32(i) for i in range(1, m)]
        first = tree.take(state.model, jnp.int32(0))
        if start == "fresh":
            drawn = [of_task(fold_in(key, i)) for i in others]
        else:
            drawn = [_perturbed(fold_in(key, i), first, spread) for i in others]
        models = jax.tree.map(
            lambda *v: jnp.stack([x.astype(v[0].dtype) for x in v]), first, *drawn
        )
        opt = jax.vmap(lambda one: optimizer.init(one.params))(models)
        return state._replace(model=models, opt=opt)

    def receive(sent: Model, member: Member) -> Any:
        return sent if of is None else own(sent, of(member))

    def update(state: ServerState, aggregate: Aggregate, key: Array) -> ServerState:
        del key
        return step_each(optimizer, state, aggregate, share=share)

    drawing = m > 1 and start in ("fresh", "perturbed")
    return ServerUpdate(
        init=init,
        send=lambda state: state.model,
        receive=receive,
        update=update,
        model=lambda state: tree.take(state.model, jnp.int32(0)),
        rescale=rescaled,
        draw=draw if drawing else None,
        models=lambda state: state.model,
    )


def step_each(
    optimizer: optax.GradientTransformation,
    state: ServerState,
    aggregate: Aggregate,
    *,
    share: bool = False,
) -> ServerState:
    """One step of each group's model, or none where nobody of the group was heard.

    Args:
      optimizer: of every group.
      state: leaves `[M, ...]`.
      aggregate: of `aggregation.grouped`.
      share: see `server_many`.
    """
    weight, update = aggregate.aux["group_weight"], aggregate.update
    if share:
        part = weight / jnp.where(aggregate.weight > 0, aggregate.weight, 1)
        update = update._replace(params=jax.vmap(tree.scale)(update.params, part))
    each = jax.vmap(lambda s, u, heard: apply_aggregate(optimizer, s, u, heard))
    return each(state, update, weight > 0)


def own(models: Model, group: Array) -> Own:
    """A client's part of the models `[M, ...]`."""
    return Own(tree.take(models, group), group)


def fixed_groups(groups: int, ids: Any = None) -> GroupOf:
    """`(Member) -> int32`: who belongs where, known beforehand.

    Args:
      groups: M.
      ids: whole numbers `[N]` in 0 .. M-1; by default client i belongs to `i % M`.

    Raises:
      InputError: where ids are no such numbers.
    """
    m = integer("groups", groups, least=1)
    if ids is None:
        return lambda member: member.id % jnp.int32(m)
    table = np.asarray(ids)
    if table.ndim != 1 or not table.size or table.dtype.kind not in "iu":
        raise InputError("ids", ids, "must be whole numbers, one a client, [N]")
    if table.min() < 0 or table.max() >= m:
        raise InputError("ids", ids, f"must be groups from 0 to {m - 1}")
    table = table.astype(np.int32)
    return lambda member: jnp.asarray(table)[member.id]


def refuse_other_count(ids: Any, n_clients: int) -> None:
    """Refuse ids that are not one a client.

    Raises:
      InputError: naming the number of clients.
    """
    if ids is not None and len(ids) != n_clients:
        raise InputError("ids", f"{len(ids)} of them", f"must be one a client: {n_clients}")


def with_rates(state: ServerState, rates: Any) -> ServerState:
    """The state `[M, ...]` whose groups' steps are longer by `rates` `[M]`.

    Raises:
      InputError: where rates are not M positive numbers.
    """
    m = state.scale.shape[0]
    if rates is None:
        return state
    number("rates", rates, above=0)
    if np.shape(rates) != (m,):
        raise InputError("rates", rates, f"must be {m} numbers, one a group")
    return state._replace(scale=state.scale * jnp.asarray(rates, state.scale.dtype))


def _copies(model: Model, m: int) -> Model:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (m, *jnp.shape(x))), model)


def _given(models: PyTree, like: Model, m: int) -> Model:
    wanted = jax.tree.map(lambda x: (m, *jnp.shape(x)), like)
    if jax.tree.map(jnp.shape, models) != wanted:
        raise InputError("start", "a model of other shapes", f"must have leaves [{m}, ...]")
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), models, like)


def _perturbed(key: Array, model: Model, spread: Array | float) -> Model:
    leaves, shape = jax.tree.flatten(model.params)
    noisy = [_noisy(fold_in(key, i), x, spread) for i, x in enumerate(leaves)]
    return model._replace(params=jax.tree.unflatten(shape, noisy))


def _noisy(key: Array, x: Array, spread: Array | float) -> Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x + jnp.asarray(spread, x.dtype) * jax.random.normal(key, x.shape, x.dtype)
