"""FedMD, FedDF and FedProto in NumPy float64, written from the papers, on logistic regression.

Rounds, `Client`s and flat parameters are those of `oracles.federated`. Public batches are lists of
row numbers, one list a step.
"""

import numpy as np
from oracles.federated import local_sgd, weights_of


def scores(theta, x, classes):
    """Logits `[B, C]`."""
    dim = x.shape[1]
    return x @ theta[: dim * classes].reshape(dim, classes) + theta[dim * classes :]


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def pull(theta, x, wanted, classes, match):
    """Gradient of the mean over the batch of how far the scores are from those wanted."""
    z = scores(theta, x, classes)
    if match == "absolute":
        residual = np.sign(z - wanted) / z.size
    elif match == "squared":
        residual = 2 * (z - wanted) / z.size
    else:  # KL(softmax(wanted), softmax(z))
        residual = (softmax(z) - softmax(wanted)) / len(z)
    return np.concatenate([(x.T @ residual).ravel(), residual.sum(axis=0)])


def fedmd(start, n_clients, rounds, classes, rate, public, digest, match):
    """Li and Wang 2019, algorithm 1, without its first training: `(own models [N], consensus)`.

    Communicate, aggregate, distribute, digest, revisit: a client digests the last consensus, then
    sees its own examples; its scores go into the next consensus.
    """
    models, consensus = np.tile(start, (n_clients, 1)), None
    for clients in rounds:
        said = []
        for c in clients:
            theta = models[c.id]
            for rows in digest if consensus is not None else []:
                g = pull(theta, public[rows], consensus[rows], classes, match)
                theta = theta - rate * g
            models[c.id] = local_sgd(theta, c, classes, rate)
            said.append(scores(models[c.id], public, classes))
        consensus = np.mean(said, axis=0)
    return models, consensus


def feddf(theta, rounds, classes, rate, public, batches, distill_rate):
    """Lin et al. 2020, algorithm 1: FedAvg, then Adam towards the mean logits of all models."""
    for clients in rounds:
        models = [local_sgd(theta, c, classes, rate) for c in clients]
        teacher = np.mean([scores(y, public, classes) for y in models], axis=0)
        p = weights_of(clients, "examples")
        theta = sum(w * y for w, y in zip(p, models, strict=True))
        m, v = np.zeros_like(theta), np.zeros_like(theta)
        for t, rows in enumerate(batches, 1):
            g = pull(theta, public[rows], teacher[rows], classes, "divergence")
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            theta = theta - distill_rate * step
    return theta


def fedproto(start, n_clients, rounds, classes, rate, strength, *, uniform=False):
    """Tan et al. 2021, algorithm 1, the representation of x being `x w`.

    Returns `(own models [N], prototypes [C, F], known [C])`.
    """
    from oracles.softmax import gradient

    models = np.tile(start, (n_clients, 1))
    shared, known = np.zeros((classes, classes)), np.zeros(classes, bool)
    for clients in rounds:
        total, weight = np.zeros_like(shared), np.zeros(classes)
        for c in clients:
            theta, dim = models[c.id], c.x.shape[1]
            for rows in c.batches:
                x, y = c.x[rows], c.y[rows]
                w = theta[: dim * classes].reshape(dim, classes)
                away = np.where(known[y][:, None], x @ w - shared[y], 0)
                g = gradient(theta, x, y, classes)
                g[: dim * classes] += strength * (x.T @ (2 * away / away.size)).ravel()
                theta = theta - rate * g
            models[c.id] = theta
            z = c.x @ theta[: dim * classes].reshape(dim, classes)
            for j in set(c.y.tolist()):
                n = 1 if uniform else np.sum(c.y == j)
                total[j] += n * z[c.y == j].mean(axis=0)
                weight[j] += n
        heard = weight > 0
        shared[heard] = total[heard] / weight[heard][:, None]
        known |= heard
    return models, shared, known
