"""Algorithms with personal models in NumPy float64, written from the papers.

A round is a list of `oracles.federated.Client`s, those present. Every function returns the
global parameters after each round, and the personal parts `{id: value}` of who took part.
"""

import numpy as np
from oracles.federated import weights_of
from oracles.softmax import gradient, probabilities


def _average(theta, clients, models, weighting, beta=1.0):
    p = weights_of(clients, weighting)
    return (1 - beta) * theta + beta * sum(w * y for w, y in zip(p, models, strict=True))


def ditto(theta, rounds, classes, rate, *, penalty, weighting="examples"):
    """Li et al. 2020, algorithm 1, both models on the same batches."""
    path, personal = [], {}
    for clients in rounds:
        models = []
        for c in clients:
            y, v = theta.copy(), personal.get(c.id, theta).copy()
            for rows in c.batches:
                y = y - rate * gradient(y, c.x[rows], c.y[rows], classes)
                pull = penalty * (v - theta)
                v = v - rate * (gradient(v, c.x[rows], c.y[rows], classes) + pull)
            models.append(y)
            personal[c.id] = v
        theta = _average(theta, clients, models, weighting)
        path.append(theta)
    return path, personal


def pfedme(theta, rounds, classes, *, inner_rate, penalty, rate, beta, inner, weighting="uniform"):
    """Dinh et al. 2020, algorithm 1, theta going on from one batch to the next."""
    path, personal = [], {}
    for clients in rounds:
        models = []
        for c in clients:
            w, own = theta.copy(), theta.copy()
            for rows in c.batches:
                for _ in range(inner):
                    g = gradient(own, c.x[rows], c.y[rows], classes) + penalty * (own - w)
                    own = own - inner_rate * g
                w = w - rate * penalty * (w - own)
            models.append(w)
            personal[c.id] = own
        theta = _average(theta, clients, models, weighting, beta)
        path.append(theta)
    return path, personal


def apfl(theta, rounds, classes, rate, *, alpha, alpha_rate, weighting="uniform"):
    """Deng et al. 2020, algorithm 1 and equation 10; personal parts are `(v, alpha)`."""
    path, personal = [], {}
    for clients in rounds:
        models = []
        for c in clients:
            w = theta.copy()
            v, share = personal.get(c.id, (theta.copy(), alpha))
            for rows in c.batches:
                x, y = c.x[rows], c.y[rows]
                g = gradient(share * v + (1 - share) * w, x, y, classes)
                apart = v - w
                w = w - rate * gradient(w, x, y, classes)
                v = v - rate * share * g
                share = float(np.clip(share - alpha_rate * (apart @ g), 0, 1))
            models.append(w)
            personal[c.id] = (v, share)
        theta = _average(theta, clients, models, weighting)
        path.append(theta)
    return path, personal


def perfedavg(theta, rounds, classes, rate, *, adapt_rate, second_order, weighting="uniform"):
    """Fallah et al. 2020, algorithm 1; each entry of `batches` is `(D, D', D'')`."""
    path = []
    for clients in rounds:
        models = []
        for c in clients:
            w = theta.copy()
            for first, second, third in c.batches:
                adapted = w - adapt_rate * gradient(w, c.x[first], c.y[first], classes)
                g = gradient(adapted, c.x[second], c.y[second], classes)
                if second_order:
                    g = g - adapt_rate * hessian_times(w, g, c.x[third], classes)
                w = w - rate * g
            models.append(w)
        theta = _average(theta, clients, models, weighting)
        path.append(theta)
    return path


def hessian_times(theta, direction, x, classes):
    """Hessian of the mean negative log-likelihood times a vector: x^T (dp/dz dz) / n."""
    p = probabilities(theta, x, classes)
    size = x.shape[1] * classes
    z = x @ direction[:size].reshape(x.shape[1], classes) + direction[size:]
    moved = p * (z - (p * z).sum(axis=1, keepdims=True)) / len(x)
    return np.concatenate([(x.T @ moved).ravel(), moved.sum(axis=0)])
