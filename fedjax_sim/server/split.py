"""A server that splits a group of clients in two where its clients want to go different ways."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.aggregation.grouped import ROW_WEIGHT
from fedjax_sim.aggregation.updates import UPDATES, cosines, row_norms
from fedjax_sim.core import order, tree
from fedjax_sim.core.checks import choice, integer, number
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model, PyTree
from fedjax_sim.grouping.bipartition import bipartition, separation
from fedjax_sim.server.fork import Forks, Heard, no_forks, take_ways, waiting, with_fork
from fedjax_sim.server.many import server_many, step_each
from fedjax_sim.server.optimizer import ServerState, rescaled

NORMS = ("absolute", "relative")
Number = Array | float


class Criteria(NamedTuple):
    """When a group is split; see `server_split`."""

    eps1: Number
    eps2: Number
    gamma_max: Number
    gap: Number
    relative: bool


class SplitState(NamedTuple):
    """What the server knows of its groups.

    Attributes:
      models: the slots' models and optimizers, leaves `[M, ...]`.
      ids: int32 `[N]`, each client's slot.
      asked: int32 `[N]`, the last fork at which a client took its way; later forks of its slot
        wait for it.
      used: int32, slots in use.
      longest: the longest client update of the first round, for relative norms.
      forks: how each slot came to be.
    """

    models: ServerState
    ids: Array
    asked: Array
    used: Array
    longest: Array
    forks: Forks


class Branch(NamedTuple):
    """What a client receives: its group's model, or that of a fork at which it is asked.

    Attributes:
      model: to be trained.
      group: int32, its slot; -1 at a fork, for then its update joins no mean.
      slot: int32, its slot in either case.
    """

    model: Model
    group: Array
    slot: Array


class _Sent(NamedTuple):
    models: Model
    ids: Array
    asked: Array
    forks: Forks


def server_split(
    optimizer: optax.GradientTransformation,
    groups: int,
    *,
    eps1: Number,
    eps2: Number,
    gamma_max: Number = 0.5,
    gap: Number = -2.0,
    norms: str = "absolute",
) -> ServerUpdate:
    """One group at first; a group whose clients disagree at rest becomes two, up to M.

    After each round's step group g, whose clients sent decreases u_i with the mean u, is split if

        |u| < eps1  and  max_i |u_i| > eps2  and  gamma_max < sqrt((1 - alpha_cross) / 2)

    and the two sides are separated by `gap`, where alpha_cross is the largest cosine of two
    updates across the bipartition that makes it smallest. The side of the lowest client keeps
    the slot; the other takes a free one, with a copy of model and optimizer. All groups that
    meet the rule are split, lowest first, as long as slots are free.

    Only clients that were heard decide. A member that was not is asked when it is next heard: it
    trains the model of the fork once, goes to the side whose mean unit update is more alike to
    its own, and its update counts in no mean.

    Args:
      optimizer: of every group, with a state a group.
      groups: M, at most so many groups.
      eps1: the group is at rest when its mean update is shorter.
      eps2: its clients are not when the longest of their updates is longer.
      gamma_max: in [0, 1): largest relative deviation of a client's update from its true group's,
        for which the split is to be right. Cosines are rounded: 0 splits the like from the like.
      gap: the smallest `min cosine within - max cosine across`; -2 asks for none.
      norms: `absolute`, or `relative`: eps1 is in units of the group's longest update, eps2 of
        the longest in the first round.

    Raises:
      InputError: naming the field.

    Cost: M x (3 P + optimizer state) memory besides the K x P of the updates; the cosines,
      K^2 P, and M K^2 for the bipartitions only in rounds in which a group is to be split.
    """
    m = integer("groups", groups, least=1)
    number("eps1", eps1, least=0)
    number("eps2", eps2, least=0)
    number("gamma_max", gamma_max, least=0, below=1)
    number("gap", gap)
    choice("norms", norms, NORMS)
    rule = Criteria(eps1, eps2, gamma_max, gap, norms == "relative")
    base = server_many(optimizer, m, start="same")

    def init(model: Model, n_clients: int) -> SplitState:
        models = base.init(model, n_clients)
        return SplitState(
            models=models,
            ids=jnp.zeros(n_clients, jnp.int32),
            asked=jnp.zeros(n_clients, jnp.int32),
            used=jnp.ones((), jnp.int32),
            longest=jnp.zeros(()),
            forks=no_forks(models.model),
        )

    def receive(sent: _Sent, member: Member) -> Branch:
        slot = sent.ids[member.id]
        fork, waits = waiting(sent.forks.parent, slot, sent.asked[member.id])
        ways = tree.take(sent.models, slot), tree.take(sent.forks.model, fork)
        return Branch(tree.where(waits, ways[1], ways[0]), jnp.where(waits, -1, slot), slot)

    def update(state: SplitState, aggregate: Aggregate, key: Array) -> SplitState:
        del key
        cohort = _heard(state, aggregate)
        longest = jnp.max(jnp.where(cohort.present, cohort.norms, 0))
        ids, asked = take_ways(state.forks, state.ids, state.asked, cohort)
        after = state._replace(
            ids=ids,
            asked=asked,
            models=step_each(optimizer, state.models, aggregate),
            longest=jnp.where(state.longest > 0, state.longest, longest),
        )
        ready = _ready(rule, after, cohort, aggregate)
        due = jnp.any(ready) & (after.used < m)
        sent = state.models.model
        return order.when(due, lambda s: _split(rule, s, cohort, ready, sent), after)

    return ServerUpdate(
        init=init,
        send=lambda state: _Sent(state.models.model, state.ids, state.asked, state.forks),
        receive=receive,
        update=update,
        model=lambda state: tree.take(state.models.model, jnp.int32(0)),
        rescale=lambda state, factor: state._replace(models=rescaled(state.models, factor)),
        models=lambda state: state.models.model,
    )


def model_of_slot(ctx: Any, state: SplitState, row: PyTree, data: Any) -> Model:
    """The model of the client's group."""
    del row, data
    return tree.take(state.models.model, state.ids[ctx.member.id])


def _heard(state: SplitState, aggregate: Aggregate) -> Heard:
    told = aggregate.aux
    client, present = told["client"], told[ROW_WEIGHT] > 0
    slot = state.ids[client]
    forks, asked = state.forks.parent, state.asked[client]
    _, waits = jax.vmap(waiting, in_axes=(None, 0, 0))(forks, slot, asked)
    group = jnp.where(present & ~waits, slot, -1)
    return Heard(present, client, group, told[UPDATES], row_norms(told[UPDATES]))


def _ready(rule: Criteria, state: SplitState, cohort: Heard, aggregate: Aggregate) -> Array:
    """Which groups `[M]` are at rest while their clients are not."""
    m = state.forks.parent.shape[0]
    member = cohort.group[None] == jnp.arange(m, dtype=jnp.int32)[:, None]  # [M, K]
    longest = jnp.max(jnp.where(member, cohort.norms[None], 0), axis=1)
    mean = row_norms(aggregate.update.params)
    unit1 = longest if rule.relative else jnp.ones_like(longest)
    unit2 = state.longest if rule.relative else jnp.ones_like(state.longest)
    return jnp.any(member, axis=1) & (mean < rule.eps1 * unit1) & (longest > rule.eps2 * unit2)


def _split(
    rule: Criteria, state: SplitState, cohort: Heard, ready: Array, sent: Model
) -> SplitState:
    """Split the groups that are ready and whose sides are apart, lowest slot first."""
    m, n = ready.shape[0], state.ids.shape[0]
    alike = cosines(cohort.updates)

    def cut(g: Array, state: SplitState) -> SplitState:
        member = cohort.group == g
        found = bipartition(alike, member)
        first = jnp.argmin(jnp.where(member, cohort.client, n))
        leaves = (found.side ^ found.side[first]) & member
        apart = rule.gamma_max < jnp.sqrt((1 - jnp.minimum(found.cross_max, 1)) / 2)
        sides = jnp.where(member, leaves.astype(jnp.int32), -1)
        apart = apart & (separation(alike, sides) >= rule.gap)
        new = _with_slot(state, g, cohort, member, leaves, sent)
        return tree.where(apart, new, state)

    def one(g: Array, state: SplitState) -> SplitState:
        go = ready[g] & (state.used < m)
        return order.when(go, lambda s: cut(g, s), state)

    return jax.lax.fori_loop(0, m, one, state)


def _with_slot(
    state: SplitState, g: Array, cohort: Heard, member: Array, leaves: Array, sent: Model
) -> SplitState:
    """The state in which `leaves` of `member` went from slot g to a new one, like g's."""
    n, new = state.ids.shape[0], state.used
    heard = jnp.where(member, cohort.client, n)
    return state._replace(
        models=jax.tree.map(lambda x: x.at[new].set(x[g]), state.models),
        ids=state.ids.at[jnp.where(leaves, cohort.client, n)].set(new, mode="drop"),
        asked=state.asked.at[heard].set(new, mode="drop"),
        used=new + 1,
        forks=with_fork(state.forks, new, g, sent, cohort, leaves),
    )
