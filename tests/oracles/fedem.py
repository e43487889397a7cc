"""FedEM in NumPy float64 (Marfoq et al. 2021, algorithms 1 and 2), for logistic regression."""

import numpy as np
from oracles.softmax import probabilities


def example_losses(theta, x, y, classes):
    """Negative log-likelihood of each example."""
    return -np.log(probabilities(theta, x, classes)[np.arange(len(y)), y])


def responsibilities(thetas, pi, x, y, classes):
    """q [n, M]: what each component has to do with each example."""
    joint = pi * np.exp(-np.stack([example_losses(t, x, y, classes) for t in thetas], axis=1))
    return joint / joint.sum(axis=1, keepdims=True)


def weighted_gradient(theta, x, y, q, classes):
    """Of the batch's mean of q_i l_i."""
    residual = probabilities(theta, x, classes)
    residual[np.arange(len(y)), y] -= 1
    residual *= q[:, None] / len(y)
    return np.concatenate([(x.T @ residual).ravel(), residual.sum(axis=0)])


def fedem(thetas, rounds, classes, rate, n_clients):
    """`(components [M, P], shares [N, M])` after rounds of `oracles.federated.Client`s."""
    thetas = np.array(thetas)
    pis = np.full((n_clients, len(thetas)), 1 / len(thetas))
    for clients in rounds:
        ends, sizes = [], []
        for c in clients:
            q = responsibilities(thetas, pis[c.id], c.x, c.y, classes)
            pis[c.id] = q.mean(axis=0)
            local = thetas.copy()
            for m in range(len(thetas)):
                for rows in c.batches:
                    step = weighted_gradient(local[m], c.x[rows], c.y[rows], q[rows, m], classes)
                    local[m] -= rate * step
            ends.append(local)
            sizes.append(len(c.y))
        thetas = np.average(ends, axis=0, weights=sizes)
    return thetas, pis


def predict(thetas, pi, x, classes):
    """Log of the mixture's probabilities."""
    return np.log(sum(p * probabilities(t, x, classes) for p, t in zip(pi, thetas, strict=True)))
