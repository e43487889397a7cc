"""Client rows: one state a client, gathered for the cohort and scattered back."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_sim.core import keys, tree
from fedjax_sim.core.contracts import Algorithm
from fedjax_sim.core.types import Array, Member, Model, PyTree
from fedjax_sim.engine.plan import refuse_oversize


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

    def one(client_id: Array) -> PyTree:
        key = keys.for_purpose(jax.random.fold_in(run, client_id), keys.Purpose.INIT_ROW)
        return algorithm.init_row(key, model, server)

    return tree.strong(jax.vmap(one)(jnp.arange(n, dtype=jnp.uint32)))


def gather(rows: PyTree, members: Member) -> PyTree:
    """The cohort's rows `[K, ...]`."""
    return tree.take(rows, members.id)


def scatter(rows: PyTree, members: Member, new: PyTree) -> PyTree:
    """Write the present members' rows back; absent ones stay untouched."""

    def put(old: Array, values: Array) -> Array:
        target = jnp.where(members.present, members.id, old.shape[0])
        return old.at[target].set(values, mode="drop")

    return jax.tree.map(put, rows, new)
