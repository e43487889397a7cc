"""Spectral clustering: k-means among the leading eigenvectors of a normalized similarity."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.core.checks import integer
from fedjax_sim.core.types import Array
from fedjax_sim.grouping.assign import to_groups
from fedjax_sim.grouping.kmeans import kmeans
from fedjax_sim.grouping.types import Grouper, Groups, similarities


def spectral(k: int, *, restarts: int = 8) -> Grouper:
    """Groups that a similarity graph cuts cheaply, as Ng, Jordan and Weiss find them.

        W = max(S, 0) with a zero diagonal,  L = D^-1/2 W D^-1/2,  D = diag(W 1)

    The k leading eigenvectors of L, rows scaled to norm 1, are grouped by `kmeans`: a relaxation
    of the normalized cut. Groups may have any shape that their similarities hold together. A
    client that is like nobody has a row of zeros and goes where k-means puts the origin; where
    all are equally alike no cut is better than another, and any may come out. Works in jit and
    vmap; new clients go to the group that they are most like on average.

    Args:
      k: groups.
      restarts: of k-means.

    Returns:
      A `Grouper` of similarities; info: `sizes`, `embedding` `[N, k]`, `eigenvalues` `[N]` of L,
      largest first (see `eigengap`).

    Cost: O(N^3) for the eigenvectors, `N^2` memory: up to a few thousand clients.
    Reference: Ng, Jordan, Weiss, On Spectral Clustering, 2001; Shi and Malik, Normalized Cuts,
      2000.
    """
    integer("k", k, least=1)
    integer("restarts", restarts, least=1)
    inner = kmeans(k, restarts=restarts, tolerance=0.0)

    def fit(key: Array, x: Any, mask: Any = None) -> Groups:
        table, present = similarities(x, mask, k=k)
        values, vectors = _decompose(table, present)
        rows = vectors[:, :k]
        norm = jnp.sqrt(jnp.sum(jnp.square(rows), axis=1, keepdims=True))
        small = 1e3 * jnp.finfo(rows.dtype).eps
        embedding = jnp.where(norm > small, rows / jnp.where(norm > small, norm, 1), 0)
        found = inner.fit(key, embedding, present)
        extra = {"embedding": embedding, "eigenvalues": values}
        return Groups(found.ids, {"sizes": found.info["sizes"], **extra})

    def assign(groups: Groups, x: Any) -> Array:
        return to_groups(x, groups.ids, k)

    return Grouper(fit, "similarity", assign, host=False)


def eigenvalues(similarity: Any, mask: Any = None) -> Array:
    """Eigenvalues `[N]` of the normalized similarity, largest first; -2 for absent clients.

    Cost: O(N^3).
    """
    table, present = similarities(similarity, mask)
    return _decompose(table, present)[0]


@jax.jit
def _decompose(table: Array, present: Array) -> tuple[Array, Array]:
    """Eigenvalues `[N]`, largest first, and eigenvectors as columns."""
    n = table.shape[0]
    diagonal = jnp.eye(n, dtype=bool)
    weights = jnp.where(diagonal, 0, jnp.maximum(table, 0))
    weights = (weights + weights.T) / 2
    degree = jnp.sum(weights, axis=1)
    root = jnp.where(degree > 0, jax.lax.rsqrt(jnp.where(degree > 0, degree, 1)), 0)
    normal = weights * root[:, None] * root[None]
    # All eigenvalues lie in [-1, 1]; absent clients are put behind them.
    normal = jnp.where(diagonal & ~present[:, None], -2, normal)
    values, vectors = jnp.linalg.eigh(normal)
    return values[::-1], vectors[:, ::-1]
