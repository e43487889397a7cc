"""The drift panel's numbers over all pairs of clients, in NumPy, from their definitions."""

import itertools

import numpy as np


def drift(updates, weights):
    """Every value of one round.

    Args:
      updates: [n, P]; rows of weight 0 may hold anything.
      weights: [n].
    """
    heard = np.asarray(weights) > 0
    d, w = np.asarray(updates, float)[heard], np.asarray(weights, float)[heard]
    n, p = len(d), w / w.sum()
    mean = p @ d
    norms = np.linalg.norm(d, axis=1)
    apart = p @ ((d - mean) ** 2).sum(1)
    # sample variance and shared part, from pairs of different clients only
    pairs = list(itertools.combinations(range(n), 2))
    share = np.array([p[i] * p[j] for i, j in pairs])
    inner = np.array([d[i] @ d[j] for i, j in pairs])
    squares = np.array([((d[i] - d[j]) ** 2).sum() / 2 for i, j in pairs])
    moved = [(i, j) for i, j in pairs if norms[i] > 0 and norms[j] > 0]
    return {
        "drift_clients": n,
        "drift_client_norm": norms.mean(),
        "drift_mean_norm": np.linalg.norm(mean),
        "drift_dispersion": apart,
        "drift_dispersion_relative": apart / (mean @ mean),
        "drift_cosine": np.mean([d[i] @ d[j] / norms[i] / norms[j] for i, j in moved]),
        "drift_diversity": sum(np.sum((p[i] * d[i]) ** 2) for i in range(n)) / (mean @ mean),
        "drift_dissimilarity": p @ norms**2 / (mean @ mean),
        "drift_variance": share @ squares / share.sum(),
        "drift_shared_square": share @ inner / share.sum(),
    }


def by_group(updates, weights, groups):
    """The groups' values of one round; arguments as for `drift`, groups [n]."""
    heard = np.asarray(weights) > 0
    d, w = np.asarray(updates, float)[heard], np.asarray(weights, float)[heard]
    g, p = np.asarray(groups)[heard], w / w.sum()
    names = sorted(set(g.tolist()))
    means = {k: p[g == k] @ d[g == k] / p[g == k].sum() for k in names}
    mean = p @ d
    inside = sum(p[i] * np.sum((d[i] - means[g[i]]) ** 2) for i in range(len(d)))
    between = sum(p[g == k].sum() * np.sum((means[k] - mean) ** 2) for k in names)
    pairs = [(i, j) for i, j in itertools.combinations(range(len(d)), 2) if g[i] == g[j]]
    across = [cosine(means[a], means[b]) for a, b in itertools.combinations(names, 2)]
    return {
        "drift_per_group_dispersion": inside,
        "drift_per_group_share": between / (between + inside),
        "drift_per_group_cosine": np.mean([cosine(d[i], d[j]) for i, j in pairs]),
        "drift_per_group_between_mean": np.mean(across),
        "drift_per_group_between_min": np.min(across),
    }


def alignment(updates, weights, step):
    """Mean cosine of the heard clients' updates with `step` [P]."""
    return np.mean([cosine(u, step) for u, w in zip(updates, weights, strict=True) if w > 0])


def cosine(a, b):
    """Of two vectors."""
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def noise(first, second, weights, batch):
    """(trace, mean |grad f_i|^2, |grad f|^2) from two gradients [n, P] a client."""
    n, w = len(first), np.asarray(weights, float)
    p = w / w.sum()
    trace = batch / 2 * p @ ((first - second) ** 2).sum(1)
    own = p @ (first * second).sum(1)
    mean = (first + second) / 2
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    total = sum(w[i] * w[j] for i, j in pairs)
    whole = sum(w[i] * w[j] * (mean[i] @ mean[j]) for i, j in pairs) / total
    return trace, own, whole
