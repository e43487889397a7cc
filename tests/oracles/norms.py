"""A ReLU network with batch norm in NumPy float64: loss, gradients and running statistics.

Written from Ioffe and Szegedy 2015 (algorithm 1 and the derivatives of section 3); `p` is
`{"dense_i": {w, b}, "norm_i": {scale, bias}, ..., "head": {w, b}}` and `s` is
`{"norm_i": {mean, var}}`. Only rows of real examples are passed in.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

EPS = 1e-5
Tree = dict[str, dict[str, np.ndarray]]


def depth(p: Tree) -> int:
    return sum(name.startswith("norm") for name in p)


def forward(p: Tree, s: Tree, x: np.ndarray, train: bool) -> tuple[np.ndarray, list[Any], Tree]:
    """`(logits, what backward needs, statistics met)`."""
    kept, met = [], {}
    for i in range(depth(p)):
        h = x @ p[f"dense_{i}"]["w"] + p[f"dense_{i}"]["b"]
        met[f"norm_{i}"] = {"mean": h.mean(0), "var": h.var(0)}
        used = met[f"norm_{i}"] if train else s[f"norm_{i}"]
        root = np.sqrt(used["var"] + EPS)
        z = (h - used["mean"]) / root
        y = z * p[f"norm_{i}"]["scale"] + p[f"norm_{i}"]["bias"]
        kept.append((x, z, root, y))
        x = np.maximum(y, 0)
    return x @ p["head"]["w"] + p["head"]["b"], [*kept, x], met


def loss_and_grad(p: Tree, s: Tree, x: Any, y: Any, train: bool = True) -> tuple[float, Tree, Tree]:
    """`(mean cross entropy, gradient, statistics met)`."""
    n = len(y)
    logits, kept, met = forward(p, s, x, train)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    loss = -np.log(share[np.arange(n), y]).mean()
    d = share.copy()
    d[np.arange(n), y] -= 1
    d /= n
    grad = {"head": {"w": kept[-1].T @ d, "b": d.sum(0)}}
    d = d @ p["head"]["w"].T
    for i in reversed(range(depth(p))):
        inputs, z, root, out = kept[i]
        d = d * (out > 0)
        grad[f"norm_{i}"] = {"scale": (d * z).sum(0), "bias": d.sum(0)}
        d = d * p[f"norm_{i}"]["scale"]
        d = (d - d.mean(0) - z * (d * z).mean(0)) / root if train else d / root
        grad[f"dense_{i}"] = {"w": inputs.T @ d, "b": d.sum(0)}
        d = d @ p[f"dense_{i}"]["w"].T
    return loss, grad, met


def moved(s: Tree, met: Tree, momentum: float) -> Tree:
    """Running statistics after one step."""
    return {
        name: {k: momentum * s[name][k] + (1 - momentum) * met[name][k] for k in s[name]}
        for name in s
    }


def train(
    p: Tree,
    s: Tree,
    batches: list[tuple[np.ndarray, np.ndarray]],
    *,
    rate: float,
    momentum: float,
    mu: float = 0.0,
    frozen: bool = False,
    affine: bool = True,
) -> tuple[Tree, Tree]:
    """SGD over `batches`, tied to its start by mu/2 |p - start|^2."""
    start, p, s = p, copy.deepcopy(p), copy.deepcopy(s)
    for x, y in batches:
        _, grad, met = loss_and_grad(p, s, x, y, train=not frozen)
        for name, group in p.items():
            for k in group:
                still = name.startswith("norm") and not affine
                g = 0.0 if still else grad[name][k]
                group[k] = group[k] - rate * (g + mu * (group[k] - start[name][k]))
        s = s if frozen else moved(s, met, momentum)
    return p, s


def averaged(trees: list[Tree], weights: list[float]) -> Tree:
    """The weighted mean."""
    total = sum(weights)
    return {
        name: {
            k: sum(w * t[name][k] for w, t in zip(weights, trees, strict=True)) / total
            for k in trees[0][name]
        }
        for name in trees[0]
    }


def pooled(p: Tree, s: Tree, x: np.ndarray) -> Tree:
    """The statistics for which evaluation on all of `x` normalises every layer exactly."""
    s = copy.deepcopy(s)
    for i in range(depth(p)):
        s[f"norm_{i}"] = forward(p, s, x, train=False)[2][f"norm_{i}"]
    return s
