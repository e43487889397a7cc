"""A server that finds its clients' groups by what their updates have in common."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.aggregation.grouped import ROW_WEIGHT
from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model, PyTree
from fedjax_sim.grouping.assign import rename
from fedjax_sim.grouping.kmeans import kmeans
from fedjax_sim.grouping.types import NONE, Grouper, sizes_of
from fedjax_sim.server.edges import mixed
from fedjax_sim.server.many import server_many, step_each, with_rates
from fedjax_sim.server.optimizer import ServerState, rescaled
from fedjax_sim.server.separation import silhouette, sums_of, unit_rows


class RegroupState(NamedTuple):
    """What the server knows of its clients' groups.

    Attributes:
      groups: the groups' models and optimizers, leaves `[M, ...]`; all alike before there are
        groups.
      ids: int32 `[N]`, -1 for a client of no group yet.
      sketches: `[N, d]`, sums of a client's update sketches of norm 1 from the common model.
      seen: bool `[N]`, who has a sketch.
      centers: `[M, d]`, of norm 1: the groups' mean directions.
      formed: bool, whether there are groups.
      silhouette: of the latest grouping found, 0 before it.
      rounds: int32, rounds in which anyone was heard.
      words: uint32 `[2]`, the key of the projection.
    """

    groups: ServerState
    ids: Array
    sketches: Array
    seen: Array
    centers: Array
    formed: Array
    silhouette: Array
    rounds: Array
    words: Array


class Joining(NamedTuple):
    """What a client receives; see `clients.choose.by_sketch`."""

    model: Model
    group: Array
    centers: Array
    words: Array
    formed: Array
    joins: Array
    heeded: Array


class _Sent(NamedTuple):
    models: Model
    common: Model
    ids: Array
    centers: Array
    words: Array
    formed: Array
    survey: Array


def server_regroup(
    optimizer: optax.GradientTransformation,
    groups: int,
    *,
    dim: int = 256,
    warmup: int = 1,
    every: int = 0,
    separation: Array | float = 0.3,
    grouper: Grouper | None = None,
    rates: Any = None,
) -> ServerUpdate:
    """One common model at first; then M, for the groups that the clients' updates fall into.

    In the first `warmup` rounds all train the common model and send a sketch of the update along.
    Then those seen so far are grouped, and each group goes on from the common model by itself.
    A client that comes later trains the groups' mean (weighted by their clients) once, joins the
    group whose mean direction is nearest to its update, and its model counts in that group's
    mean. Rounds in which nobody is heard are not counted.

    Args:
      optimizer: of every group, with a state a group.
      groups: M.
      dim: length d of a sketch.
      warmup: rounds before the first grouping; a client's sketches in them are added up.
      every: after so many rounds one is given to a survey: all train the groups' mean, no model
        moves, and who was heard is grouped anew; labels stay with their groups. 0: never.
      separation: least `silhouette` of groups that are believed. Below it all that were seen
        form one group at first, and stay where they are later. -1 believes any.
      grouper: of features, not of the host; by default k-means by cosine.
      rates: `[M]` factors of the groups' steps, from the grouping on.

    Raises:
      InputError: naming the field.

    Cost: N x d + M x (P + optimizer state) memory; a grouping is one `grouper.fit` of N x d.
    """
    m, d = integer("groups", groups, least=1), integer("sketch", dim, least=1)
    integer("warmup", warmup, least=1)
    integer("every", every, least=0)
    number("separation", separation, least=-1, most=1)
    rule = grouper or kmeans(m, metric="cosine")
    if rule.host or rule.takes != "features":
        raise InputError("grouper", rule.takes, "must take features, and run in the program")
    base = server_many(optimizer, m, start="same")

    def init(model: Model, n_clients: int) -> RegroupState:
        if n_clients < m:
            raise InputError("groups", m, f"must be at most the {n_clients} clients there are")
        begun = base.init(model, n_clients)
        _check_grouper(rule, n_clients, d, m)
        with_rates(begun, rates)  # refuses wrong ones now; they count once there are groups
        return _ungrouped(begun, n_clients, m, d)

    def again(rounds: Array) -> Array:
        """Whether a round of this number is one of `every`."""
        since = rounds + 1 - warmup
        return (since > 0) & (since % every == 0) if every else jnp.zeros((), bool)

    def send(state: RegroupState) -> _Sent:
        survey = ~state.formed | again(state.rounds)
        return _Sent(
            state.groups.model,
            common_model(state),
            state.ids,
            state.centers,
            state.words,
            state.formed,
            survey,
        )

    def update(state: RegroupState, aggregate: Aggregate, key: Array) -> RegroupState:
        surveyed = state.formed & again(state.rounds)
        known = _listened(state, aggregate, surveyed)
        moved = _moved(optimizer, state, aggregate, surveyed)
        known = known._replace(groups=moved, rounds=state.rounds + 1)
        enough = jnp.sum(known.seen, dtype=jnp.int32) >= m
        first = ~state.formed & (known.rounds >= warmup) & enough
        after = jax.lax.cond(
            first | surveyed,
            lambda s: _grouped_anew(s, rule, key, rates, separation),
            lambda s: s,
            known,
        )
        return tree.where(aggregate.weight > 0, after, state)

    return ServerUpdate(
        init=init,
        send=send,
        receive=_receive,
        update=update,
        model=common_model,
        rescale=lambda state, factor: state._replace(groups=rescaled(state.groups, factor)),
        draw=_draw_words,
        models=lambda state: state.groups.model,
    )


def _ungrouped(groups: Any, n: int, m: int, d: int) -> RegroupState:
    """The state of N clients before any of them was heard."""
    return RegroupState(
        groups=groups,
        ids=jnp.full(n, NONE, jnp.int32),
        sketches=jnp.zeros((n, d)),
        seen=jnp.zeros(n, bool),
        centers=jnp.zeros((m, d)),
        formed=jnp.zeros((), bool),
        silhouette=jnp.zeros(()),
        rounds=jnp.zeros((), jnp.int32),
        words=jnp.zeros(2, jnp.uint32),
    )


def _draw_words(key: Array, of_task: Any, state: RegroupState) -> RegroupState:
    """The words that sketches are drawn by."""
    del of_task
    return state._replace(words=jax.random.key_data(key).reshape(-1)[-2:].astype(jnp.uint32))


def _receive(sent: _Sent, member: Member) -> Joining:
    """The model of the client's group, or the common one."""
    mine = sent.ids[member.id]
    newcomer = mine == NONE
    group = jnp.maximum(mine, 0)
    shared = sent.survey | newcomer
    model = tree.where(shared, sent.common, tree.take(sent.models, group))
    joins = sent.formed & newcomer
    return Joining(model, group, sent.centers, sent.words, sent.formed, joins, shared)


def _check_grouper(rule: Grouper, n: int, d: int, m: int) -> None:
    """Refuse a grouper of more than M groups."""
    shapes = jax.ShapeDtypeStruct((n, d), jnp.result_type(float)), jax.ShapeDtypeStruct((n,), bool)
    found = jax.eval_shape(lambda x, mask: rule.fit(jax.random.key(0), x, mask), *shapes)
    many = found.info["sizes"].shape[0]
    if many > m:
        raise InputError("grouper", f"one of {many} groups", f"must make at most groups = {m}")


def common_model(state: RegroupState) -> Model:
    """The mean of the groups' models by their numbers of clients; the one there is at first."""
    sizes = sizes_of(state.ids, state.centers.shape[0]).astype(state.centers.dtype)
    total = jnp.sum(sizes)
    first = (jnp.arange(sizes.shape[0]) == 0).astype(sizes.dtype)
    share = jnp.where(total > 0, sizes / jnp.where(total > 0, total, 1), first)
    return mixed(state.groups.model, share)


def model_of_member(ctx: Any, state: RegroupState, row: PyTree, data: Any) -> Model:
    """The model of the client's group; the common one as long as it has none."""
    del row, data
    mine = state.ids[ctx.member.id]
    return tree.where(
        mine == NONE,
        common_model(state),
        tree.take(state.groups.model, jnp.maximum(mine, 0)),
    )


def _listened(state: RegroupState, aggregate: Aggregate, surveyed: Array) -> RegroupState:
    """The state with the cohort's sketches, and with newcomers in the groups they joined."""
    told, n = aggregate.aux, state.ids.shape[0]
    client, sketch, group = told["client"], told["sketch"], told["group"]
    fine = (told[ROW_WEIGHT] > 0) & jnp.all(jnp.isfinite(sketch), axis=1)
    newcomer = state.ids[client] == NONE
    draws = fine & (~state.formed | surveyed | newcomer)
    at = jnp.where(draws, client, n)
    # Before there are groups sketches add up; a later one takes the place of what there was.
    kept = jnp.where(state.formed, 0, state.sketches[client])
    sketches = state.sketches.at[at].set(kept + sketch, mode="drop")
    joined = jnp.where(fine & newcomer & state.formed, client, n)
    return state._replace(
        sketches=sketches,
        seen=state.seen.at[at].set(True, mode="drop"),
        ids=state.ids.at[joined].set(group, mode="drop"),
    )


def _moved(
    optimizer: optax.GradientTransformation,
    state: RegroupState,
    aggregate: Aggregate,
    surveyed: Array,
) -> ServerState:
    """The groups' models after this round's step."""
    together = jax.tree.map(lambda u: jnp.broadcast_to(u[:1], u.shape), aggregate.update)
    weight = aggregate.aux["group_weight"]
    update = tree.where(state.formed, _from_own_model(state, aggregate), together)
    weight = jnp.where(state.formed, weight, jnp.broadcast_to(weight[:1], weight.shape))
    aux = aggregate.aux | {"group_weight": weight}
    stepped = step_each(optimizer, state.groups, aggregate._replace(update=update, aux=aux))
    return tree.where(surveyed, state.groups, stepped)


def _from_own_model(state: RegroupState, aggregate: Aggregate) -> Model:
    """Each group's mean decrease, as if newcomers had begun at its model and not at the mean.

    They reported `common - y`; with `x_m - common` added, for their share of the weight, the
    step goes to the mean of the models that the clients trained.
    """
    told, m = aggregate.aux, state.centers.shape[0]
    newcomer = state.ids[told["client"]] == NONE
    weight = jnp.where(newcomer, told[ROW_WEIGHT], 0)
    at = jnp.where(told["group"] >= 0, told["group"], m)
    came = jnp.zeros(m, weight.dtype).at[at].add(weight, mode="drop")
    total = told["group_weight"]
    share = came / jnp.where(total > 0, total, 1)
    common = common_model(state)

    def one(update: Array, x: Array, middle: Array) -> Array:
        part = share.reshape(share.shape + (1,) * (x.ndim - 1)).astype(update.dtype)
        gap = (x - middle[None]).astype(update.dtype)
        return update + jnp.where(part > 0, part * gap, 0)

    return jax.tree.map(one, aggregate.update, state.groups.model, common)


def _with_newborn(state: RegroupState) -> ServerState:
    """The groups' states, those of labels that nobody had begun at the groups' mean."""
    sizes = sizes_of(state.ids, state.centers.shape[0])
    empty, common = sizes == 0, common_model(state)
    opt = tree.take(state.groups.opt, jnp.argmax(sizes))

    def begun(old: Array, fresh: Array) -> Array:
        there = empty.reshape(empty.shape + (1,) * (old.ndim - 1))
        return jnp.where(there, jnp.asarray(fresh, old.dtype)[None], old)

    return state.groups._replace(
        model=jax.tree.map(begun, state.groups.model, common),
        opt=jax.tree.map(begun, state.groups.opt, opt),
    )


def _grouped_anew(
    state: RegroupState, rule: Grouper, key: Array, rates: Any, separation: Array | float
) -> RegroupState:
    """The state whose seen clients are grouped; those of groups before keep their labels."""
    m, unit = state.centers.shape[0], unit_rows(state.sketches)
    found = rule.fit(key, state.sketches, state.seen).ids
    value = silhouette(unit, found, m)
    named = jnp.where(state.formed, rename(found, state.ids, m), found)
    as_one = jnp.where(state.formed, state.ids, jnp.minimum(found, 0))
    ids = jnp.where(value >= separation, named, as_one).astype(jnp.int32)
    faster = with_rates(state.groups, rates)
    return state._replace(
        groups=tree.where(state.formed, _with_newborn(state), faster),
        ids=ids,
        centers=unit_rows(sums_of(unit, ids, m)),
        formed=jnp.ones((), bool),
        silhouette=value.astype(state.silhouette.dtype),
    )
