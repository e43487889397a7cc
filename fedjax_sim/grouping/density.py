"""Density-based groups by scikit-learn on the host: as many as there are, and noise apart."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, choice, integer, number
from fedjax_sim.core.types import Array
from fedjax_sim.grouping.types import Grouper, Groups, features, refuse_tracing, settled
from fedjax_sim.grouping.types import similarities as checked


def density(
    radius: float | None = None,
    *,
    least: int = 5,
    method: str = "dbscan",
    takes: str = "features",
) -> Grouper:
    """Groups are regions where clients lie close; who lies apart is noise (id -1).

    DBSCAN joins clients that have `least` clients within `radius`; HDBSCAN needs no radius and
    lets it vary from place to place. The number of groups is found, not given. Distances are
    euclidean between features; between similarities they are the largest similarity minus
    each. New clients go to the group of the nearest client that is in one, if within `radius`.

    Args:
      radius: DBSCAN's reach, in units of distance.
      least: clients that make a place dense, the client itself counted; for HDBSCAN also the
        smallest group.
      method: `"dbscan"` or `"hdbscan"`.
      takes: `"features"` or `"similarity"`.

    Returns:
      A host `Grouper`; info: `sizes`, and the features or nothing for `assign`.

    Cost: O(N log N) to O(N^2) time; `N^2` memory for similarities.
    Reference: Ester, Kriegel, Sander, Xu, A Density-Based Algorithm for Discovering Clusters,
      1996; Campello, Moulavi, Sander, Density-Based Clustering Based on Hierarchical Density
      Estimates, 2013.
    """
    choice("method", method, ("dbscan", "hdbscan"))
    choice("takes", takes, ("features", "similarity"))
    integer("least", least, least=1 if method == "dbscan" else 2)
    if method == "dbscan":
        if radius is None:
            raise InputError("radius", radius, "is needed by dbscan")
        number("radius", radius, above=0.0)

    def fit(key: Array, x: Any, mask: Any = None) -> Groups:
        del key
        refuse_tracing("density", x, mask)
        if takes == "features":
            table, present = features(x, mask)
        else:
            table, present = checked(x, mask)
        there = np.flatnonzero(np.asarray(present))
        rows = np.asarray(table, np.float64)[there]
        if takes == "similarity":
            rows = rows[:, there]
            rows = rows.max(initial=-np.inf) - rows
            np.fill_diagonal(rows, 0)
        ids = np.full(len(np.asarray(present)), -1)
        ids[there] = _labels(rows, radius, least, method, takes)
        extra = {"features": table} if takes == "features" else {}
        return settled(jnp.asarray(ids), present, max(int(ids.max()) + 1, 1), **extra)

    def assign(groups: Groups, x: Any) -> Array:
        return _near(groups, x, radius)

    return Grouper(
        fit,
        "features" if takes == "features" else "similarity",
        assign if takes == "features" else None,
        host=True,
    )


def _labels(
    rows: np.ndarray, radius: float | None, least: int, method: str, takes: str
) -> np.ndarray:
    from sklearn import cluster

    if len(rows) < (1 if method == "dbscan" else 2):
        return np.full(len(rows), -1)
    metric = "euclidean" if takes == "features" else "precomputed"
    if method == "dbscan":
        assert radius is not None
        return cluster.DBSCAN(eps=radius, min_samples=least, metric=metric).fit_predict(rows)
    if len(rows) < least:
        return np.full(len(rows), -1)
    model = cluster.HDBSCAN(min_cluster_size=least, metric=metric, copy=True)  # pyright: ignore[reportArgumentType]
    return np.maximum(model.fit_predict(rows), -1)


def _near(groups: Groups, x: Any, radius: float | None) -> Array:
    from sklearn.neighbors import NearestNeighbors

    refuse_tracing("density", x)
    new, present = features(x)
    ids = np.asarray(groups.ids)
    members = np.flatnonzero(ids >= 0)
    if not len(members):
        return jnp.full(new.shape[0], -1, jnp.int32)
    search = NearestNeighbors(n_neighbors=1).fit(np.asarray(groups.info["features"])[members])
    distance, at = search.kneighbors(np.asarray(new))
    close = (distance[:, 0] <= (np.inf if radius is None else radius)) & np.asarray(present)
    return jnp.asarray(np.where(close, ids[members][at[:, 0]], -1), jnp.int32)
