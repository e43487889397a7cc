"""Corrections against client drift in NumPy float64, written from the papers.

Rounds are lists of `federated.Client`s, those present; all means are uniform. Every function
returns the path of the global parameters, and what the clients keep.
"""

import numpy as np
from oracles.federated import local_sgd
from oracles.softmax import gradient


def scaffold_first(theta, rounds, classes, rate, n_clients):
    """Karimireddy et al. 2019, algorithm 1, option I: c_i becomes the gradient at x."""
    control, controls = np.zeros_like(theta), np.zeros((n_clients, theta.size))
    path = []
    for clients in rounds:
        moves, changes = [], []
        for c in clients:
            own = controls[c.id].copy()
            y = local_sgd(theta, c, classes, rate, correction=control - own)
            controls[c.id] = gradient(theta, c.x, c.y, classes)
            moves.append(y - theta)
            changes.append(controls[c.id] - own)
        theta = theta + np.mean(moves, axis=0)
        control = control + len(clients) / n_clients * np.mean(changes, axis=0)
        path.append(theta)
    return path, controls


def feddyn(theta, rounds, classes, rate, n_clients, alpha):
    """Acar et al. 2021, algorithm 1, its argmin by SGD from the received model.

    Risk: L_k(w) - <grad_k, w> + alpha/2 |w - theta|^2; grad_k <- grad_k - alpha (w_k - theta);
    h <- h - alpha/m sum_k (w_k - theta); theta <- mean w_k - h / alpha.
    """
    h, grads = np.zeros_like(theta), np.zeros((n_clients, theta.size))
    path = []
    for clients in rounds:
        models = []
        for c in clients:
            w = local_sgd(theta, c, classes, rate, mu=alpha, correction=-grads[c.id])
            grads[c.id] -= alpha * (w - theta)
            models.append(w)
        h = h - alpha / n_clients * np.sum([w - theta for w in models], axis=0)
        theta = np.mean(models, axis=0) - h / alpha
        path.append(theta)
    return path, grads


def fedadmm(theta, rounds, classes, rate, n_clients, rho, *, eta, own=False):
    """Gong et al. 2022, algorithm 1: u_i = w_i + y_i / rho; theta <- theta + eta / |S| sum du_i.

    `eta` maps |S| to a number; with `own`, SGD starts from w_i. The Lagrangian's gradient at w is
    g(w) + y_i + rho (w - theta).
    """
    w, y = np.tile(theta, (n_clients, 1)), np.zeros((n_clients, theta.size))
    path = []
    for clients in rounds:
        change = np.zeros_like(theta)
        for c in clients:
            before = w[c.id] + y[c.id] / rho
            v = w[c.id].copy() if own else theta.copy()
            for rows in c.batches:
                g = gradient(v, c.x[rows], c.y[rows], classes)
                v = v - rate * (g + y[c.id] + rho * (v - theta))
            w[c.id] = v
            y[c.id] += rho * (v - theta)
            change += w[c.id] + y[c.id] / rho - before
        theta = theta + eta(len(clients)) / len(clients) * change
        path.append(theta)
    return path, w, y


def fedsplit(theta, rounds, classes, rate, n_clients, s):
    """Pathak and Wainwright 2020, algorithm 1, prox by SGD from x; the absent keep z_i.

    v = prox_s(2 x - z_i) minimises f_i(v) + |v - (2 x - z_i)|^2 / (2 s); z_i <- z_i + 2 (v - x);
    x = mean of all z_i.
    """
    z, path = np.tile(theta, (n_clients, 1)), []
    for clients in rounds:
        for c in clients:
            goal, v = 2 * theta - z[c.id], theta.copy()
            for rows in c.batches:
                v = v - rate * (gradient(v, c.x[rows], c.y[rows], classes) + (v - goal) / s)
            z[c.id] += 2 * (v - theta)
        theta = z.mean(axis=0)
        path.append(theta)
    return path, z


def mean_gradient(theta, clients, classes):
    return np.mean([gradient(theta, c.x, c.y, classes) for c in clients], axis=0)


def fedlin(theta, rounds, classes, rate, *, server_rate=1.0):
    """Mitra et al. 2021, algorithm 1 without compression; even rounds gather, odd ones train."""
    path, g = [], None
    for r, clients in enumerate(rounds):
        if r % 2 == 0:
            g = mean_gradient(theta, clients, classes)
        else:
            models = []
            for c in clients:
                shift = g - gradient(theta, c.x, c.y, classes)
                models.append(local_sgd(theta, c, classes, rate, correction=shift))
            theta = theta + server_rate * (np.mean(models, axis=0) - theta)
        path.append(theta)
    return path


def mime(theta, rounds, classes, rate, beta):
    """Karimireddy et al. 2020, algorithm 1, heavy ball: U(g, m) = V(g, m) = g + beta m.

    Even rounds gather c, odd ones train.
    """
    path, m, c_mean = [], np.zeros_like(theta), None
    for r, clients in enumerate(rounds):
        if r % 2 == 0:
            c_mean = mean_gradient(theta, clients, classes)
        else:
            models = []
            for c in clients:
                y = theta.copy()
                for rows in c.batches:
                    here = gradient(y, c.x[rows], c.y[rows], classes)
                    there = gradient(theta, c.x[rows], c.y[rows], classes)
                    y = y - rate * (here - there + c_mean + beta * m)
                models.append(y)
            m, theta = c_mean + beta * m, np.mean(models, axis=0)
        path.append(theta)
    return path


def mimelite(theta, rounds, classes, rate, b1, b2, eps):
    """Karimireddy et al. 2020, algorithm 1 without correction, Adam with bias correction.

    The local gradient enters the moments for the one step only.
    """
    path, m, v = [], np.zeros_like(theta), np.zeros_like(theta)
    for t, clients in enumerate(rounds, start=1):
        models = []
        for c in clients:
            y = theta.copy()
            for rows in c.batches:
                g = gradient(y, c.x[rows], c.y[rows], classes)
                first = (b1 * m + (1 - b1) * g) / (1 - b1**t)
                second = (b2 * v + (1 - b2) * g**2) / (1 - b2**t)
                y = y - rate * first / (np.sqrt(second) + eps)
            models.append(y)
        g = mean_gradient(theta, clients, classes)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        theta = np.mean(models, axis=0)
        path.append(theta)
    return path
