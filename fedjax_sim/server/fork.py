"""Where a group of clients was cut in two, kept for those who were not there to choose."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import order, tree
from fedjax_sim.core.types import Array, Model, PyTree


class Forks(NamedTuple):
    """How each slot came to be, leaves `[M, ...]`.

    Attributes:
      parent: int32 `[M]`, the slot that was split, -1 where the slot is not in use.
      model: the model that the group had in the round of the split.
      apart: mean unit update, from that model, of the clients that went to the new slot, less that
        of those that kept the old one.
    """

    parent: Array
    model: Model
    apart: PyTree


class Heard(NamedTuple):
    """The cohort `[K]` as the server hears it.

    Attributes:
      present: bool, who was heard.
      client: int32, whose update it is.
      group: int32, its slot; -1 for who was not heard, and for who was asked at a fork.
      updates: leaves `[K, ...]`, zeros for who was not heard.
      norms: of the updates.
    """

    present: Array
    client: Array
    group: Array
    updates: PyTree
    norms: Array


def no_forks(models: Model) -> Forks:
    """None yet, for models with leaves `[M, ...]`."""
    nowhere = tree.zeros(models)
    m = jax.tree.leaves(models)[0].shape[0]
    return Forks(jnp.full(m, -1, jnp.int32), nowhere, nowhere.params)


def waiting(parent: Array, slot: Array, asked: Array) -> tuple[Array, Array]:
    """The next fork at which a client must be asked, and whether there is one.

    Args:
      parent: int32 `[M]`, of `Forks`.
      slot: int32, the client's.
      asked: int32, the last fork at which it took its way; forks are numbered in time.
    """
    forks = jnp.arange(parent.shape[0], dtype=jnp.int32)
    later = (parent == slot) & (forks > asked)
    return jnp.argmax(later).astype(jnp.int32), jnp.any(later)


def take_ways(forks: Forks, ids: Array, asked: Array, cohort: Heard) -> tuple[Array, Array]:
    """`(ids, asked)` in which those heard at a fork went to the side more alike to their update.

    Args:
      forks: how slots came to be.
      ids: int32 `[N]`, clients' slots.
      asked: int32 `[N]`, the last fork at which each took its way.
      cohort: who was heard.
    """
    n, at_fork = ids.shape[0], cohort.present & (cohort.group < 0)
    slot = ids[cohort.client]
    fork, _ = jax.vmap(waiting, in_axes=(None, 0, 0))(forks.parent, slot, asked[cohort.client])

    def take(at: tuple[Array, Array]) -> tuple[Array, Array]:
        goes = _along(forks.apart, fork, cohort) > 0
        row = jnp.where(at_fork, cohort.client, n)
        slot_then = jnp.where(goes, fork, slot)
        return at[0].at[row].set(slot_then, mode="drop"), at[1].at[row].set(fork, mode="drop")

    return order.when(jnp.any(at_fork), take, (ids, asked))


def _along(ways: PyTree, fork: Array, cohort: Heard) -> Array:
    """Inner products `[K]` of the updates with the rows `fork` `[K]` of the ways."""

    def leaf(update: Array, way: Array) -> Array:
        own = update * way[fork]
        return jnp.sum(own.reshape(own.shape[0], -1).astype(cohort.norms.dtype), axis=1)

    parts = jax.tree.leaves(jax.tree.map(leaf, cohort.updates, ways))
    return sum(parts, jnp.zeros_like(cohort.norms))


def with_fork(
    forks: Forks, new: Array, parent: Array, sent: Model, cohort: Heard, leaves: Array
) -> Forks:
    """The forks with one more.

    Args:
      forks: so far.
      new: int32, the new slot.
      parent: int32, the slot that is split.
      sent: the models that this round's updates started from, leaves `[M, ...]`.
      cohort: who was heard; those of `parent` are the two sides.
      leaves: bool `[K]`, who of them goes to the new slot.
    """
    stays = (cohort.group == parent) & ~leaves
    apart = tree.sub(_direction(cohort, leaves), _direction(cohort, stays))
    return Forks(
        parent=forks.parent.at[new].set(parent),
        model=_put(forks.model, new, jax.tree.map(lambda x: x[parent], sent)),
        apart=_put(forks.apart, new, apart),
    )


def _put(table: PyTree, row: Array, value: PyTree) -> PyTree:
    return jax.tree.map(lambda t, v: t.at[row].set(v.astype(t.dtype)), table, value)


def _direction(cohort: Heard, chosen: Array) -> PyTree:
    """The mean of the chosen clients' updates, each divided by its norm."""
    norms, count = cohort.norms, jnp.maximum(jnp.sum(chosen), 1)
    share = jnp.where(chosen & (norms > 0), 1 / jnp.where(norms > 0, norms, 1), 0) / count

    def mean(update: Array) -> Array:
        s = share.reshape(share.shape + (1,) * (update.ndim - 1)).astype(update.dtype)
        return jnp.sum(jnp.where(s > 0, s * update, 0), axis=0)

    return jax.tree.map(mean, cohort.updates)
