"""Federated algorithms in NumPy float64, written from the papers.

A round is a list of `Client`s, those present. Every function returns the global parameters
after each round. `classes` is the number of classes of the logistic regression in `softmax`.
"""

from typing import NamedTuple

import numpy as np
from oracles.softmax import gradient


class Client(NamedTuple):
    """What one present client does in one round."""

    id: int
    x: np.ndarray
    y: np.ndarray
    batches: list  # one array of row numbers a local step


def local_sgd(theta, client, classes, rate, *, mu=0.0, momentum=0.0, correction=0.0):
    """Local steps of (heavy-ball) SGD on loss + mu/2 |y - x|^2, gradient shifted."""
    y, velocity = theta.copy(), np.zeros_like(theta)
    for rows in client.batches:
        g = gradient(y, client.x[rows], client.y[rows], classes) + mu * (y - theta) + correction
        velocity = momentum * velocity + g
        y = y - rate * velocity
    return y


def weights_of(clients, weighting):
    """Normalised weights p_i: by examples, equal, or by local steps."""
    raw = {
        "examples": lambda c: len(c.y),
        "uniform": lambda c: 1,
        "steps": lambda c: len(c.batches),
    }
    values = np.array([raw[weighting](c) for c in clients], float)
    return values / values.sum()


def fedavg(theta, rounds, classes, rate, *, weighting="examples", server=None, **local):
    """McMahan et al. 2016, algorithm 1: the weighted mean of local models.

    With `server`, Reddi et al. 2020, algorithm 1: a server rule gets the mean DECREASE as
    a gradient. `local`: mu (Li et al. 2018, equation 2), momentum.
    """
    path = []
    for clients in rounds:
        p = weights_of(clients, weighting)
        models = [local_sgd(theta, c, classes, rate, **local) for c in clients]
        if server is None:
            theta = sum(w * y for w, y in zip(p, models, strict=True))
        else:
            theta = theta + server.step(
                sum(w * (theta - y) for w, y in zip(p, models, strict=True))
            )
        path.append(theta)
    return path


def fednova(theta, rounds, classes, rate, *, momentum=0.0, weighting="examples"):
    """Wang et al. 2020, equations 6 to 8.

    d_i = G_i a_i / |a_i|_1 with G_i the stacked gradients, and
    x <- x - tau_eff sum_i p_i rate d_i, tau_eff = sum_i p_i |a_i|_1. The vector a_i holds how
    often each gradient entered: with momentum rho, entry k of tau is (1 - rho^(tau-k))/(1-rho).
    """
    path = []
    for clients in rounds:
        p = weights_of(clients, weighting)
        norms, directions = [], []
        for c in clients:
            tau = len(c.batches)
            a = np.array([(1 - momentum ** (tau - k)) / (1 - momentum) for k in range(tau)])
            moved = theta - local_sgd(theta, c, classes, rate, momentum=momentum)
            norms.append(a.sum())
            directions.append(moved / a.sum())
        effective = np.sum(p * norms)
        theta = theta - effective * sum(w * d for w, d in zip(p, directions, strict=True))
        path.append(theta)
    return path


def scaffold(theta, rounds, classes, rate, n_clients, *, server_rate=1.0):
    """Karimireddy et al. 2019, algorithm 1, option II; returns (path, c, c_i)."""
    control, controls = np.zeros_like(theta), np.zeros((n_clients, theta.size))
    path = []
    for clients in rounds:
        moves, changes = [], []
        for c in clients:
            own = controls[c.id].copy()
            y = local_sgd(theta, c, classes, rate, correction=control - own)
            fresh = own - control + (theta - y) / (len(c.batches) * rate)
            moves.append(y - theta)
            changes.append(fresh - own)
            controls[c.id] = fresh
        theta = theta + server_rate * np.mean(moves, axis=0)
        control = control + len(clients) / n_clients * np.mean(changes, axis=0)
        path.append(theta)
    return path, control, controls


def coordinate_median(theta, rounds, classes, rate):
    """Yin et al. 2018, definition 1, on the models after local steps."""
    path = []
    for clients in rounds:
        theta = np.median([local_sgd(theta, c, classes, rate) for c in clients], axis=0)
        path.append(theta)
    return path


def fedsgd(theta, rounds, classes, rate):
    """McMahan et al. 2016, section 2: one step on the example-weighted mean gradient."""
    path = []
    for clients in rounds:
        total = sum(len(c.y) * gradient(theta, c.x, c.y, classes) for c in clients)
        theta = theta - rate * total / sum(len(c.y) for c in clients)
        path.append(theta)
    return path


def continued_sgd(theta, rounds, classes, rate, momentum=0.0):
    """One learner whose momentum outlives the round; `rounds` holds one `Client` each."""
    velocity, path = np.zeros_like(theta), []
    for client in rounds:
        for rows in client.batches:
            g = gradient(theta, client.x[rows], client.y[rows], classes)
            velocity = momentum * velocity + g
            theta = theta - rate * velocity
        path.append(theta)
    return path
