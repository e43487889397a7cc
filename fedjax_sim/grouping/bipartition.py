"""Sattler's optimal bipartition: two groups whose most alike members are least alike."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.core.types import Array
from fedjax_sim.grouping.types import Grouper, Groups, refuse_tracing, settled, similarities


class Cut(NamedTuple):
    """A group in two.

    Attributes:
      side: bool `[K]`; False where the first present client is, and at absent clients.
      cross_max: `()`, the largest similarity between the two sides.
    """

    side: Array
    cross_max: Array


def bipartition(similarity: Array, mask: Array | None = None) -> Cut:
    """The bipartition that minimizes the largest similarity across, exactly.

        min over (A, B) of  max { s_ij : i in A, j in B }

    Any bipartition cuts an edge of the maximum spanning tree, so none does better than the tree's
    weakest edge; cutting that edge reaches it. This is single linkage stopped at two groups.
    Prim's algorithm grows the tree from the first present client; what joined before the weakest
    edge is one side. With fewer than two present clients nobody is on side True and `cross_max`
    is 1, a client's cosine with itself, so that no rule wants to split. Works in jit and vmap.

    Args:
      similarity: `[K, K]`, symmetric; entries that are not finite count as least alike.
      mask: bool `[K]`, or None where all are present. In jit and outside alike, a client whose
        similarity to itself is not finite counts as absent.

    Returns:
      `Cut`.

    Raises:
      InputError: not a square matrix.
    Cost: O(K^2).
    Reference: Sattler, Mueller, Samek, Clustered Federated Learning, 2019, arXiv:1910.01991,
      equation 13 and algorithm 1.
    """
    n = similarity.shape[0]
    if similarity.shape != (n, n):
        raise InputError("similarity", f"shape {similarity.shape}", "must be [K, K]")
    present = jnp.isfinite(jnp.diagonal(similarity))
    present = present if mask is None else present & mask
    among = present[:, None] & present[None] & jnp.isfinite(similarity)
    # Between present clients finite, to absent ones never chosen while a present one is left.
    least = jnp.finfo(similarity.dtype).min
    table = jnp.where(among, similarity, least)
    order, joins = _prim(table, present, n)
    count = jnp.sum(present, dtype=jnp.int32)
    weakest = jnp.argmin(jnp.where(jnp.arange(n) < count, joins, jnp.inf))
    splittable = count >= 2
    side = (order >= weakest) & present & splittable
    return Cut(side, jnp.where(splittable, joins[weakest], jnp.ones((), table.dtype)))


def _prim(table: Array, present: Array, n: int) -> tuple[Array, Array]:
    """When each client joined, int32 `[K]`, and by which similarity the t-th joined, `[K]`."""
    first = jnp.argmax(present)
    clients = jnp.arange(n, dtype=jnp.int32)

    def join(t: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        order, best, joins = carry
        waiting = (order == n) & present
        new = jnp.argmax(jnp.where(waiting, best, -jnp.inf))
        order = jnp.where((clients == new) & waiting, t, order)
        return order, jnp.maximum(best, table[new]), joins.at[t].set(best[new])

    order = jnp.where(clients == first, 0, n).astype(jnp.int32)
    joins = jnp.full(n, jnp.inf, table.dtype)
    order, _, joins = jax.lax.fori_loop(1, n, join, (order, table[first], joins))
    return order, joins


def separation(similarity: Array, ids: Array) -> Array:
    """`min { s_ij : i, j in one group } - max { s_ij : i, j in two }`, `()`: the separation gap.

    Positive exactly when any two clients of one group are more alike than any two of different
    groups; then every cut that `bipartition` makes leaves the groups whole. A group of one has no
    pair and does not count; without any pair within or across the answer is infinite.

    Args:
      similarity: `[K, K]`.
      ids: int or bool `[K]`, e.g. `Cut.side`; -1 is left out.

    Reference: Sattler, Mueller, Samek, 2019, arXiv:1910.01991, definition 3.
    """
    n = similarity.shape[0]
    there = ids >= 0
    pairs = there[:, None] & there[None] & ~jnp.eye(n, dtype=bool)
    same = ids[:, None] == ids[None]
    within = jnp.min(jnp.where(pairs & same, similarity, jnp.inf))
    across = jnp.max(jnp.where(pairs & ~same, similarity, -jnp.inf))
    return within - across


def recursive_bipartition(
    threshold: float = 0.0, *, least: int = 1, most: int | None = None
) -> Grouper:
    """Bipartitions of bipartitions, as long as the two sides are unlike enough.

    A group is cut while its `cross_max` is at most `threshold`.

    Args:
      threshold: the largest similarity that two groups may have across.
      least: clients of the smallest group; a cut that leaves fewer is not made.
      most: groups at the end; the most unlike are cut first. None sets no bound.

    Returns:
      A host `Grouper` of similarities; `info["cross_max"]` has each cut's, in order.

    Cost: O(K^2) a cut, at most 2 K cuts tried; the kernel compiles once for a K.
    Reference: Sattler, Mueller, Samek, 2019, arXiv:1910.01991, algorithm 2. Theirs looks at the
      gradient norms of each new group as well, which the algorithm `cfl` does.
    """
    number("threshold", threshold)
    integer("least", least, least=1)
    if most is not None:
        integer("most", most, least=1)

    def fit(key: Array, x: Any, mask: Any = None) -> Groups:
        del key
        refuse_tracing("recursive_bipartition", x, mask)
        table, present = similarities(x, mask)
        there = np.asarray(present)
        done, cuts = _split_all(table, there, threshold, least, most)
        ids = np.full(len(there), -1)
        for g, members in enumerate(sorted(done, key=lambda m: int(np.argmax(m)))):
            ids[members] = g
        return settled(jnp.asarray(ids), present, len(done), cross_max=jnp.asarray(cuts))

    return Grouper(fit, "similarity", None, host=True)


def _split_all(
    table: Array,
    there: np.ndarray,
    threshold: float,
    least: int,
    most: int | None,
) -> tuple[list[np.ndarray], list[float]]:
    """Groups as bool `[K]` each, and every cut's `cross_max`."""

    def attempt(members: np.ndarray) -> tuple[float, np.ndarray, np.ndarray] | None:
        cut = _jitted(table, jnp.asarray(members))
        other, cross = np.asarray(cut.side), float(cut.cross_max)
        one = members & ~other
        if not other.any() or cross > threshold or min(one.sum(), other.sum()) < least:
            return None
        return cross, one, other

    whole, cuts = [(there, attempt(there))], []
    while True:
        able = [(found[0], i) for i, (_, found) in enumerate(whole) if found is not None]
        if not able or (most is not None and len(whole) >= most):
            return [members for members, _ in whole], cuts
        cross, i = min(able)
        found = whole.pop(i)[1]
        assert found is not None
        whole += [(part, attempt(part)) for part in found[1:]]
        cuts.append(cross)


_jitted = jax.jit(bipartition)
