"""Momentum over rounds and other losses in NumPy float64, written from the papers.

As in `oracles.federated`: a round is a list of `Client`s, those present; every function returns
the global parameters after each round. The model is the logistic regression of `softmax`, whose
representation is `x w`.
"""

import numpy as np
from oracles.federated import weights_of
from oracles.softmax import gradient


def mean_of(values, clients, weighting):
    """The weighted mean over the clients of a round."""
    p = weights_of(clients, weighting)
    return sum(w * v for w, v in zip(p, values, strict=True))


def fedcm(theta, rounds, classes, rate, alpha, *, server_rate=1.0, weighting="uniform"):
    """Xu et al. 2021, algorithm 2; all local steps of a round count alike in the momentum."""
    momentum, path = np.zeros_like(theta), []
    for clients in rounds:
        moved = []
        for c in clients:
            y = theta.copy()
            for rows in c.batches:
                g = gradient(y, c.x[rows], c.y[rows], classes)
                y = y - rate * (alpha * g + (1 - alpha) * momentum)
            moved.append(theta - y)
        steps = mean_of([len(c.batches) for c in clients], clients, weighting)
        decrease = mean_of(moved, clients, weighting)
        momentum = decrease / (rate * steps)
        theta = theta - server_rate * decrease
        path.append(theta)
    return path, momentum


def fedacg(theta, rounds, classes, rate, momentum, beta, *, weighting="uniform"):
    """Kim et al. 2022, algorithm 1: m is a sum of INCREASES here, as printed."""
    m, path = np.zeros_like(theta), []
    for clients in rounds:
        start, ends = theta + momentum * m, []
        for c in clients:
            y = start.copy()
            for rows in c.batches:
                g = gradient(y, c.x[rows], c.y[rows], classes) + beta * (y - start)
                y = y - rate * g
            ends.append(y - start)
        m = momentum * m + mean_of(ends, clients, weighting)
        theta = theta + m
        path.append(theta)
    return path


def fedexp(theta, rounds, classes, rate, epsilon, *, weighting="uniform"):
    """Jhunjhunwala et al. 2023, algorithm 1; returns (path, server rates)."""
    path, rates = [], []
    for clients in rounds:
        moved = []
        for c in clients:
            y = theta.copy()
            for rows in c.batches:
                y = y - rate * gradient(y, c.x[rows], c.y[rows], classes)
            moved.append(theta - y)
        mean = mean_of(moved, clients, weighting)
        each = mean_of([d @ d for d in moved], clients, weighting)
        rates.append(max(1.0, each / (2 * (mean @ mean + epsilon))))
        theta = theta - rates[-1] * mean
        path.append(theta)
    return path, rates


def _averaged(theta, rounds, classes, rate, slope, end=None):
    """FedAvg by examples on `slope(y, theta, client, rows)`, a gradient."""
    path = []
    for clients in rounds:
        ends = []
        for c in clients:
            y = theta.copy()
            for rows in c.batches:
                y = y - rate * slope(y, theta, c, rows)
            ends.append(y)
        for c, y in zip(clients, ends, strict=True):
            if end is not None:
                end(c, y)
        theta = mean_of(ends, clients, "examples")
        path.append(theta)
    return path


def _back(x, residual):
    """The gradient of params from that of the summed logits, averaged over the batch."""
    residual = residual / len(x)
    return np.concatenate([(x.T @ residual).ravel(), residual.sum(axis=0)])


def _logits(theta, x, classes):
    w, b = theta[: x.shape[1] * classes].reshape(-1, classes), theta[x.shape[1] * classes :]
    return x @ w + b


def fedlc(theta, rounds, classes, rate, tau):
    """Zhang et al. 2022: cross entropy of `f - tau n^(-1/4)`; a missing label counts 1e-8."""

    def slope(y, received, c, rows):
        del received
        counts = np.maximum(np.bincount(c.y, minlength=classes), 1e-8)
        z = _logits(y, c.x[rows], classes) - tau * counts**-0.25
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(rows)), c.y[rows]] -= 1
        return _back(c.x[rows], p)

    return _averaged(theta, rounds, classes, rate, slope)


def fedntd(theta, rounds, classes, rate, beta, tau):
    """Lee et al. 2021: KL over the classes that are not the label, by their own softmax."""

    def others(params, c, row):
        keep = np.arange(classes) != c.y[row]
        z = _logits(params, c.x[[row]], classes)[0, keep] / tau
        p = np.exp(z - z.max())
        return keep, p / p.sum()

    def slope(y, received, c, rows):
        residual = np.zeros((len(rows), classes))
        for i, row in enumerate(rows):
            keep, own = others(y, c, row)
            # d/dz of KL(g || softmax(z / tau)) is (own - g) / tau, times tau^2.
            residual[i, keep] = beta * tau * (own - others(received, c, row)[1])
        return gradient(y, c.x[rows], c.y[rows], classes) + _back(c.x[rows], residual)

    return _averaged(theta, rounds, classes, rate, slope)


def moon(theta, rounds, classes, rate, mu, tau):
    """Li et al. 2021, algorithm 1; a client without a last model compares the received twice."""
    last = {}

    def shown(params, x):
        return x @ params[: x.shape[1] * classes].reshape(-1, classes)

    def cosine(h, other):
        """The cosine of two vectors, and its gradient in the first."""
        s = h @ other / np.linalg.norm(h) / np.linalg.norm(other)
        slope = (other / np.linalg.norm(other) - s * h / np.linalg.norm(h)) / np.linalg.norm(h)
        return s, slope

    def slope(y, received, c, rows):
        x = c.x[rows]
        own, shared, before = (shown(p, x) for p in (y, received, last.get(c.id, received)))
        pulled = np.zeros_like(own)
        for i in range(len(rows)):
            near, to_near = cosine(own[i], shared[i])
            far, to_far = cosine(own[i], before[i])
            share = np.exp(far / tau) / (np.exp(far / tau) + np.exp(near / tau))
            pulled[i] = mu * share * (to_far - to_near) / tau
        bias = np.zeros(classes)
        return gradient(y, x, c.y[rows], classes) + np.concatenate(
            [(x.T @ pulled / len(rows)).ravel(), bias]
        )

    def remember(c, y):
        last[c.id] = y

    return _averaged(theta, rounds, classes, rate, slope, remember), last
