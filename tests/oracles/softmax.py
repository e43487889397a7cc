"""Multinomial logistic regression in NumPy: loss and gradient of a flat parameter vector."""

import numpy as np


def _split(theta, dim, classes):
    return theta[: dim * classes].reshape(dim, classes), theta[dim * classes :]


def probabilities(theta, x, classes):
    w, b = _split(theta, x.shape[1], classes)
    z = x @ w + b
    z = z - z.max(axis=1, keepdims=True)
    e = np.exp(z)
    return e / e.sum(axis=1, keepdims=True)


def loss(theta, x, y, classes):
    """Mean negative log-likelihood."""
    p = probabilities(theta, x, classes)
    return -np.mean(np.log(p[np.arange(len(y)), y]))


def gradient(theta, x, y, classes):
    """Of the mean negative log-likelihood: x^T (p - onehot) / n, and the column means."""
    residual = probabilities(theta, x, classes)
    residual[np.arange(len(y)), y] -= 1
    residual /= len(y)
    return np.concatenate([(x.T @ residual).ravel(), residual.sum(axis=0)])
