"""Client rows: one state a client, gathered for the cohort and scattered back.

The rows of all clients lie on the device as `[N, ...]`, or the device holds a `Pool`: those of
a dispatch's cohorts, and all others lie elsewhere (`store_host.py`, or a file).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import keys, tree
from fedjax_sim.core.contracts import Algorithm
from fedjax_sim.core.types import Array, Member, Model, PyTree
from fedjax_sim.engine.plan import refuse_oversize


class Pool(NamedTuple):
    """The rows of a few clients.

    Attributes:
      ids: int32 `[U]`, whose they are: ascending and distinct, `NOBODY` behind the last.
      rows: `[U, ...]`.
    """

    ids: Array
    rows: PyTree


NOBODY = 2**31 - 1


def init_rows(algorithm: Algorithm, run: Array, model: Model, server: PyTree, n: int) -> PyTree:
    """Rows `[N, ...]` on the device, each as `Algorithm.init_row` makes it; `()` if stateless.

    Cost: N x row bytes.

    Raises:
      InputError: when the rows cannot fit into memory.
    """
    shape = jax.eval_shape(lambda: algorithm.init_row(run, model, server))
    refuse_oversize(
        "clients",
        f"{n} client states",
        n * tree.n_bytes(shape),
        1,
        "take fewer clients, a smaller model, or an algorithm without client state",
    )

    return fresh_rows(algorithm, run, model, server, jnp.arange(n, dtype=jnp.int32))


def fresh_rows(
    algorithm: Algorithm, run: Array, model: Model, server: PyTree, ids: Array
) -> PyTree:
    """Rows `[n, ...]` of clients `ids` `[n]` as they are before the first round."""

    def one(client_id: Array) -> PyTree:
        key = keys.for_purpose(jax.random.fold_in(run, client_id), keys.Purpose.INIT_ROW)
        return algorithm.init_row(key, model, server)

    return tree.strong(jax.vmap(one)(ids.astype(jnp.uint32)))


def gather(rows: PyTree, members: Member) -> PyTree:
    """The cohort's rows `[K, ...]`; of members that a pool lacks any row."""
    if isinstance(rows, Pool):
        place = jnp.minimum(jnp.searchsorted(rows.ids, members.id), rows.ids.shape[0] - 1)
        return tree.take(rows.rows, place)
    return tree.take(rows, members.id)


def missing(rows: PyTree, members: Member) -> Array:
    """int32, the present members whose rows a pool lacks; 0 where all rows are here."""
    if not isinstance(rows, Pool):
        return jnp.zeros((), jnp.int32)
    place = jnp.minimum(jnp.searchsorted(rows.ids, members.id), rows.ids.shape[0] - 1)
    return jnp.sum(members.present & (rows.ids[place] != members.id), dtype=jnp.int32)


def scatter(rows: PyTree, members: Member, new: PyTree) -> PyTree:
    """Write the present members' rows back; absent ones stay untouched."""
    if isinstance(rows, Pool):
        at = jnp.searchsorted(rows.ids, members.id).astype(jnp.int32)
        here = rows.ids[jnp.minimum(at, rows.ids.shape[0] - 1)] == members.id
        return rows._replace(rows=_put(rows.rows, at, members.present & here, new))
    return _put(rows, members.id, members.present, new)


def _put(rows: PyTree, at: Array, present: Array, new: PyTree) -> PyTree:
    def put(old: Array, values: Array) -> Array:
        target = jnp.where(present, at, old.shape[0])
        return old.at[target].set(values, mode="drop")

    return jax.tree.map(put, rows, new)
