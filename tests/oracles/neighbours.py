"""Models made of others', of past ones or of memory, in NumPy float64, from the papers.

A round is a list of `oracles.federated.Client`s, those present. `theta` is the first model, flat.
"""

import numpy as np
from oracles.federated import local_sgd, weights_of
from oracles.softmax import gradient, loss, probabilities


def by_distance(models, known, i, alpha, sigma):
    """Huang et al. 2021, section 3: A(t) = 1 - exp(-t / sigma), xi_ij = alpha A'(|w_i - w_j|^2)."""
    xi = np.zeros(len(models))
    for j in np.flatnonzero(known):
        if j != i:
            xi[j] = alpha * np.exp(-np.sum((models[i] - models[j]) ** 2) / sigma) / sigma
    xi = xi / max(xi.sum(), 1.0)
    xi[i] = 1 - xi.sum()
    return xi


def by_cosine(models, known, i, own_share, sigma):
    """HeurFedAMP: xi_ij = exp(sigma cos(w_i, w_j)) / sum_h exp(sigma cos(w_i, w_h)) (1 - xi_ii)."""
    unit = models / np.linalg.norm(models, axis=1, keepdims=True)
    xi = np.exp(sigma * unit @ unit[i]) * known
    xi[i] = 0
    xi = (1 - own_share) * xi / max(xi.sum(), 1e-300)
    xi[i] = 1 - xi.sum()
    return xi


def fedamp(theta, rounds, classes, rate, n, *, penalty, alpha, sigma, momentum=0.0):
    """Huang et al. 2021, algorithm 1, local steps from u_i; returns the models [N, P]."""
    models, known = np.tile(theta, (n, 1)), np.zeros(n, bool)
    for clients in rounds:
        new = {}
        for c in (c for c in clients if c.batches):
            u = by_distance(models, known, c.id, alpha, sigma) @ models
            new[c.id] = local_sgd(u, c, classes, rate, mu=penalty / alpha, momentum=momentum)
        for i, model in new.items():
            models[i], known[i] = model, True
    return models


def fedfomo(theta, rounds, held, classes, rate, n, choose):
    """Zhang et al. 2021, equations 3 and 4; returns (models [N, P], affinity [N, N]).

    `held[i]` are client i's validation examples, `choose(round, i, affinity_i, known)` the models
    that the server sends it.
    """
    models, known, affinity = np.tile(theta, (n, 1)), np.zeros(n, bool), np.zeros((n, n))
    for r, clients in enumerate(rounds):
        new, gained = {}, np.zeros((n, n))
        for c in clients:
            x, y = held[c.id]
            mine = models[c.id]
            w = np.zeros(n)
            for j in choose(r, c.id, affinity[c.id], known):
                lead = loss(mine, x, y, classes) - loss(models[j], x, y, classes)
                w[j] = lead / np.linalg.norm(models[j] - mine)
            gained[c.id] = w
            positive = np.maximum(w, 0)
            begin = mine
            if positive.sum() > 0:
                begin = mine + positive / positive.sum() @ (models - mine)
            new[c.id] = local_sgd(begin, c, classes, rate)
        affinity += gained
        for i, model in new.items():
            models[i], known[i] = model, True
    return models, affinity


def fedala(theta, rounds, firsts, classes, rate, n, part, *, weight_rate, momentum=0.0):
    """Zhang et al. 2023, algorithm 1; `firsts[r][i]` are the batches that learn W.

    `part` is a bool vector, the blended numbers. Returns (theta, own models [N, P], W [N, P]).
    """
    own, weights, known = np.tile(theta, (n, 1)), np.ones((n, len(theta))), np.zeros(n, bool)
    for clients, batches in zip(rounds, firsts, strict=True):
        p, models = weights_of(clients, "examples"), []
        for c, first in zip(clients, batches, strict=True):
            mine = own[c.id] if known[c.id] else theta
            apart = (theta - mine) * part
            w = weights[c.id]
            for rows in first:
                begin = np.where(part, mine + w * apart, theta)
                w = np.clip(
                    w - weight_rate * gradient(begin, c.x[rows], c.y[rows], classes) * apart, 0, 1
                )
            weights[c.id] = w
            begin = np.where(part, mine + w * apart, theta)
            models.append(local_sgd(begin, c, classes, rate, momentum=momentum))
            own[c.id], known[c.id] = models[-1], True
        theta = sum(a * y for a, y in zip(p, models, strict=True))
    return theta, np.where(known[:, None], own, theta), weights


def fedphp(theta, rounds, classes, rate, n, *, strength, temperature, momentum, visits):
    """Li et al. 2021, with distillation; returns (theta, inherited models [N, P])."""
    inherited, count = np.tile(theta, (n, 1)), np.zeros(n, int)
    for clients in rounds:
        p, models = weights_of(clients, "examples"), []
        for c in clients:
            s, y = (strength if count[c.id] else 0.0), theta.copy()
            for rows in c.batches:
                x = c.x[rows]
                plain = gradient(y, x, c.y[rows], classes)
                soft = [probabilities(m / temperature, x, classes) for m in (y, inherited[c.id])]
                residual = temperature * (soft[0] - soft[1]) / len(rows)
                taught = np.concatenate([(x.T @ residual).ravel(), residual.sum(axis=0)])
                y = y - rate * ((1 - s) * plain + s * taught)
            mu = momentum * min(1.0, count[c.id] / visits)
            inherited[c.id] = mu * inherited[c.id] + (1 - mu) * y
            count[c.id] += 1
            models.append(y)
        theta = sum(a * y for a, y in zip(p, models, strict=True))
    return theta, np.where(count[:, None] > 0, inherited, theta)


def knn_per(theta, memory, x, classes, *, neighbours, share, width, represent):
    """Marfoq et al. 2022, equations 7 and 8: class probabilities [B, C]."""
    (seen, labels), wanted = memory, represent(theta, x)
    kept = represent(theta, seen)
    q = np.zeros((len(x), classes))
    for i, z in enumerate(wanted):
        far = np.linalg.norm(kept - z, axis=1)
        for j in np.argsort(far)[:neighbours]:
            q[i, labels[j]] += np.exp(-far[j] / width)
    q /= q.sum(axis=1, keepdims=True)
    return share * q + (1 - share) * probabilities(theta, x, classes)
