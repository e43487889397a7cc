"""Hessians and critical points known without any of our code: NumPy, float64.

Deep linear networks: f(W_1 .. W_L) = |W_L ... W_1 - A|^2 / 2, which is the mean squared error of
whitened inputs (X X^T / n = I) up to a constant. A product of the leading singular parts of A is
a critical point for every subset of them: the global minima keep as many as fit, the largest
first; all others are saddles (Baldi and Hornik, Neural networks and principal component analysis,
1989, for two layers; Kawaguchi, Deep learning without poor local minima, 2016, for any depth).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def hessian_by_differences(
    gradient: Callable[[np.ndarray], np.ndarray], x: np.ndarray, step: float = 1e-5
) -> np.ndarray:
    """Central differences of a gradient, symmetrised: error about 1e-9 for smooth functions."""
    columns = []
    for i in range(len(x)):
        e = np.zeros(len(x))
        e[i] = step
        columns.append((gradient(x + e) - gradient(x - e)) / (2 * step))
    h = np.array(columns)
    return (h + h.T) / 2


def softmax_gradient(flat: np.ndarray, x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    """Gradient of mean cross entropy of `x W + b`, with W `[d, C]` first and then b."""
    d = x.shape[1]
    w, b = flat[: d * classes].reshape(d, classes), flat[d * classes :]
    z = x @ w + b
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    p /= len(y)
    return np.concatenate([(x.T @ p).ravel(), p.sum(axis=0)])


def softmax_hessian(flat: np.ndarray, x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    """Hessian of the same: sum over examples of `(diag p - p p^T) (x) (x, 1)(x, 1)^T`."""
    del y
    d = x.shape[1]
    w, b = flat[: d * classes].reshape(d, classes), flat[d * classes :]
    z = x @ w + b
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    inputs = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    inner = np.einsum("nc,ce->nce", p, np.eye(classes)) - np.einsum("nc,ne->nce", p, p)
    h = np.einsum("ni,nj,nce->icje", inputs, inputs, inner) / len(x)
    size = (d + 1) * classes
    return h.reshape(size, size)


def deep_linear_loss(weights: Sequence[np.ndarray], a: np.ndarray) -> float:
    """`|W_L ... W_1 - A|^2 / 2`; `weights[0]` is W_1."""
    product = np.eye(weights[0].shape[1])
    for w in weights:
        product = w @ product
    return 0.5 * float(np.sum((product - a) ** 2))


def deep_linear_gradients(weights: Sequence[np.ndarray], a: np.ndarray) -> list[np.ndarray]:
    """Gradient by each weight: `(W_L .. W_{l+1})^T (product - A) (W_{l-1} .. W_1)^T`."""
    below = [np.eye(weights[0].shape[1])]
    for w in weights:
        below.append(w @ below[-1])
    above = [np.eye(weights[-1].shape[0])]
    for w in reversed(weights):
        above.append(above[-1] @ w)
    above = above[::-1]
    off = below[-1] - a
    return [above[i + 1].T @ off @ below[i].T for i in range(len(weights))]


def critical_weights(
    a: np.ndarray, widths: Sequence[int], keep: Sequence[int], scale: float = 1.0
) -> list[np.ndarray]:
    """Weights whose product is the part of A along the singular values `keep`.

    Args:
      a: `[widths[-1], widths[0]]`.
      widths: of the layers, inputs first.
      keep: indices of singular values, at most the narrowest width.
      scale: how the first two factors share the singular values.
    """
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    k, depth = list(keep), len(widths) - 1
    each = s[k] ** (1 / depth)
    weights = []
    for layer in range(depth):
        w = np.zeros((widths[layer + 1], widths[layer]))
        core = np.diag(each)
        if layer == 0:
            core, part = core * scale, vt[k]
            w[: len(k)] = core @ part
        elif layer == depth - 1:
            w[:, : len(k)] = u[:, k] @ (core / (scale if depth == 2 else 1.0))
        else:
            w[: len(k), : len(k)] = core / (scale if layer == 1 else 1.0)
        weights.append(w)
    return weights


def spectral_moments(h: np.ndarray) -> tuple[float, float]:
    """`(trace H / P, trace H^2 / P)`."""
    return float(np.trace(h)) / len(h), float(np.sum(h * h)) / len(h)
