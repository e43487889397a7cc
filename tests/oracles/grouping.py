"""Grouping in plain NumPy, from the papers; imports nothing of ours."""

from __future__ import annotations

import itertools

import numpy as np


def blobs(seed: int, n: int, d: int, k: int, apart: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian groups of unit variance on a simplex of edge about `apart`, and their truth."""
    rng = np.random.default_rng(seed)
    corners = np.eye(k, d) * apart
    truth = np.arange(n) % k
    return corners[truth] + rng.normal(size=(n, d)), truth


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two id vectors put the same clients together; -1 is a group of its own."""
    a, b = np.asarray(a), np.asarray(b)
    return bool(((a[:, None] == a[None]) == (b[:, None] == b[None])).all())


def inertia(x: np.ndarray, ids: np.ndarray) -> float:
    """Sum of squared distances to the group means."""
    return float(sum(((x[ids == g] - x[ids == g].mean(0)) ** 2).sum() for g in np.unique(ids)))


def best_cut(similarity: np.ndarray) -> float:
    """The least largest cross similarity over all bipartitions, by trying all."""
    n = len(similarity)
    cuts = [
        max(similarity[i, j] for i in part for j in range(n) if j not in part)
        for size in range(1, n // 2 + 1)
        for part in itertools.combinations(range(n), size)
    ]
    return min(cuts)


def best_sizes(cost: np.ndarray, least: int, most: int) -> float:
    """The least cost of an assignment of rows to columns with bounded counts, by trying all."""
    n, k = cost.shape
    best = np.inf
    for ids in itertools.product(range(k), repeat=n):
        counts = np.bincount(ids, minlength=k)
        if counts.min() >= least and counts.max() <= most:
            best = min(best, cost[np.arange(n), ids].sum())
    return float(best)


def histograms(y: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, classes: int) -> np.ndarray:
    """Label counts `[N, C]`, one client at a time."""
    rows = [y[o : o + s].ravel() for o, s in zip(offsets, sizes, strict=True)]
    kept = [row[(row >= 0) & (row < classes)] for row in rows]
    return np.stack([np.bincount(row, minlength=classes) for row in kept])


def pair_cosines(updates: np.ndarray) -> np.ndarray:
    """Cosines `[N, N]`."""
    unit = updates / np.linalg.norm(updates, axis=1, keepdims=True)
    return unit @ unit.T


def sculley(start: np.ndarray, batches: list[np.ndarray]) -> np.ndarray:
    """Algorithm 1 of Sculley 2010 on given batches of rows: centers `[k, d]`."""
    centers, counts = start.copy(), np.zeros(len(start))
    for rows in batches:
        nearest = ((rows[:, None] - centers[None]) ** 2).sum(2).argmin(1)
        for row, g in zip(rows, nearest, strict=True):
            counts[g] += 1
            centers[g] += (row - centers[g]) / counts[g]
    return centers


def lloyd(x: np.ndarray, centers: np.ndarray, iterations: int = 300) -> np.ndarray:
    """Lloyd's fixed point from given centers: ids `[N]`; empty groups stay."""
    ids = np.zeros(len(x), int)
    for _ in range(iterations):
        ids = ((x[:, None] - centers[None]) ** 2).sum(2).argmin(1)
        means = [x[ids == g].mean(0) if (ids == g).any() else c for g, c in enumerate(centers)]
        if np.array_equal(np.stack(means), centers):
            break
        centers = np.stack(means)
    return ids


def is_stable(cost: np.ndarray, ids: np.ndarray, most: int) -> bool:
    """Whether no row and column prefer one another to what they have."""
    for i, mine in enumerate(ids):
        for j in range(cost.shape[1]):
            if cost[i, j] < cost[i, mine]:
                held = cost[ids == j, j]
                if len(held) < most or cost[i, j] < held.max():
                    return False
    return True


def simplified_silhouette(x: np.ndarray, ids: np.ndarray, centers: np.ndarray) -> float:
    """Hruschka's silhouette, client by client."""
    each = []
    for row, g in zip(x, ids, strict=True):
        distance = np.linalg.norm(centers - row, axis=1)
        a, b = distance[g], np.delete(distance, g).min()
        each.append((b - a) / max(a, b))
    return float(np.mean(each))
