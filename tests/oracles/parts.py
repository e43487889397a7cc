"""Models in two parts in NumPy float64, from the papers; `own` is a bool vector of coordinates.

A round is a list of `oracles.federated.Client`s, those present; own parts begin as in theta.
"""

import numpy as np
from oracles.federated import weights_of
from oracles.softmax import gradient


def train(theta, client, batches, classes, rate, free, momentum=0.0):
    """Heavy-ball SGD on the coordinates of `free`; the others stay."""
    y, velocity = theta.copy(), np.zeros_like(theta)
    for rows in batches:
        g = gradient(y, client.x[rows], client.y[rows], classes) * free
        velocity = momentum * velocity + g
        y = y - rate * velocity
    return y


def fedper(theta, rounds, classes, rate, own, n_clients):
    """Arivazhagan et al. 2019, algorithms 1 and 2; returns (theta, models [N, P])."""
    everything = np.ones_like(theta)
    kept = np.tile(theta, (n_clients, 1))
    for clients in rounds:
        p = weights_of(clients, "examples")
        models = []
        for c in clients:
            begin = np.where(own, kept[c.id], theta)
            models.append(train(begin, c, c.batches, classes, rate, everything))
            kept[c.id] = models[-1]
        mean = sum(w * y for w, y in zip(p, models, strict=True))
        theta = np.where(own, theta, mean)
    return theta, np.where(own, kept, theta)


def fedrep(theta, rounds, head_batches, classes, rate, own, n_clients, momentum):
    """Collins et al. 2021, algorithm 1; `head_batches[r][i]` of the first pass."""
    kept = np.tile(theta, (n_clients, 1))
    for clients, firsts in zip(rounds, head_batches, strict=True):
        models = []
        for c, first in zip(clients, firsts, strict=True):
            y = np.where(own, kept[c.id], theta)
            y = train(y, c, first, classes, rate, own, momentum)
            y = train(y, c, c.batches, classes, rate, ~own, momentum)
            models.append(y)
            kept[c.id] = y
        theta = np.where(own, theta, np.mean(models, axis=0))
    return theta, np.where(own, kept, theta)


def fedbabu(theta, rounds, classes, rate, own, momentum, decay):
    """Oh et al. 2022, algorithm 1; the server's bodies decay."""
    for clients in rounds:
        p = weights_of(clients, "examples")
        models = [train(theta, c, c.batches, classes, rate, ~own, momentum) for c in clients]
        mean = sum(w * y for w, y in zip(p, models, strict=True))
        theta = np.where(own, theta, mean - decay * theta)
    return theta


def fedrod(theta, rounds, classes, rate, own, n_clients):
    """Chen and Chao 2021, with the linear own head p: returns (theta, heads [N, own]).

    The model is `softmax(x w + b)`, the own head a second `b`: the personal logits are
    `2 (x w) + b + p`, the body counting in both terms.
    """
    heads = np.zeros((n_clients, classes))
    for clients in rounds:
        p = weights_of(clients, "examples")
        models = []
        for c in clients:
            y, head = theta.copy(), heads[c.id].copy()
            counts = np.bincount(c.y, minlength=classes)
            shift = np.zeros_like(theta)
            with np.errstate(divide="ignore"):
                shift[own] = np.log(counts)
            for rows in c.batches:
                x, labels = c.x[rows], c.y[rows]
                # The shift of the logits by log n_c is one of the bias.
                g = gradient(y + shift, x, labels, classes)
                both = np.where(own, y, 2 * y)
                both[own] += head
                of_head = gradient(both, x, labels, classes)[own]
                y, head = y - rate * g, head - rate * of_head
            models.append(y)
            heads[c.id] = head
        theta = sum(w * y for w, y in zip(p, models, strict=True))
    return theta, heads
