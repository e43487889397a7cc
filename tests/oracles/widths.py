"""Partial training in NumPy float64, written from the papers, on a net of one hidden layer.

A model is a dict of `w0 [in, h]`, `b0 [h]`, `w1 [h, C]`, `b1 [C]` with a ReLU between. A client
trains the sub-model of the hidden units `keep` as a small model of its own.
"""

import math

import numpy as np


def forward(model, x):
    z = x @ model["w0"] + model["b0"]
    return z, np.maximum(z, 0) @ model["w1"] + model["b1"]


def softmax(z):
    z = np.exp(z - z.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


def gradient(model, x, target, labels=None):
    """Of the mean cross-entropy to `target` [B, C]; outputs whose label is not had are 0."""
    z, logits = forward(model, x)
    had = np.ones(logits.shape[1], bool) if labels is None else labels
    d = (softmax(np.where(had, logits, 0)) * target.sum(1, keepdims=True) - target) / len(x)
    d = np.where(had, d, 0)
    back = (d @ model["w1"].T) * (z > 0)
    return {
        "w0": x.T @ back,
        "b0": back.sum(0),
        "w1": np.maximum(z, 0).T @ d,
        "b1": d.sum(0),
    }


def part_of(model, keep):
    return {
        "w0": model["w0"][:, keep],
        "b0": model["b0"][keep],
        "w1": model["w1"][keep],
        "b1": model["b1"],
    }


def places(model, keep, labels=None):
    """Index arrays of what a client holds."""
    had = np.arange(len(model["b1"])) if labels is None else np.flatnonzero(labels)
    rows = np.arange(model["w0"].shape[0])
    return {
        "w0": np.ix_(rows, keep),
        "b0": (keep,),
        "w1": np.ix_(keep, had),
        "b1": (had,),
    }


def one_hot(y, classes):
    return np.eye(classes)[y]


def units(n, ratio, first=0):
    """HeteroFL's and FedRolex's index set: ceil(ratio n) units from `first` on, round the end."""
    return (first + np.arange(math.ceil(ratio * n))) % n


def covered(model, rounds, ratios, rate, *, own_labels=False, rolling=False, uniform=False):
    """HeteroFL (Diao et al. 2021, algorithm 1), FedRolex (Alam et al. 2022, algorithm 1).

    Client i is of level `i % len(ratios)`. Every coordinate becomes the weighted mean of the
    clients that hold it; what nobody holds stays.
    """
    for t, clients in enumerate(rounds):
        total = {n: np.zeros_like(v) for n, v in model.items()}
        weight = {n: np.zeros_like(v) for n, v in model.items()}
        hidden, classes = model["w1"].shape
        for c in clients:
            keep = units(hidden, ratios[c.id % len(ratios)], t if rolling else 0)
            labels = np.isin(np.arange(classes), c.y) if own_labels else None
            part = part_of(model, keep)
            for rows in c.batches:
                g = gradient(part, c.x[rows], one_hot(c.y[rows], classes), labels)
                part = {n: part[n] - rate * g[n] for n in part}
            whole = {n: v.copy() for n, v in model.items()}
            whole["w0"][:, keep], whole["b0"][keep] = part["w0"], part["b0"]
            whole["w1"][keep], whole["b1"] = part["w1"], part["b1"]
            w = 1 if uniform else len(c.y)
            for n, at in places(model, keep, labels).items():
                total[n][at] += w * whole[n][at]
                weight[n][at] += w
        model = {
            n: np.where(weight[n] > 0, total[n] / np.maximum(weight[n], 1e-300), v)
            for n, v in model.items()
        }
    return model


def ordered(model, rounds, ratios, rate, drawn, *, distill=False):
    """FjORD (Horvath et al. 2021, algorithm 1); `drawn(round, client, step)` is the level."""
    hidden, classes = model["w1"].shape
    for t, clients in enumerate(rounds):
        total = {n: np.zeros_like(v) for n, v in model.items()}
        weight = {n: np.zeros_like(v) for n, v in model.items()}
        for c in clients:
            widest = units(hidden, ratios[c.id % len(ratios)])
            own = {n: v.copy() for n, v in model.items()}
            for s, rows in enumerate(c.batches):
                keep = units(hidden, ratios[drawn(t, c.id, s)])
                x, target = c.x[rows], one_hot(c.y[rows], classes)
                steps = [(keep, target)]
                if distill:
                    taught = softmax(forward(part_of(own, widest), x)[1])
                    steps = [(widest, target), (keep, taught)]
                found = {n: np.zeros_like(v) for n, v in own.items()}
                for at, goal in steps:
                    g = gradient(part_of(own, at), x, goal)
                    for n, where in places(own, at).items():
                        found[n][where] += g[n]
                own = {n: own[n] - rate * found[n] for n in own}
            for n, at in places(model, widest).items():
                total[n][at] += len(c.y) * own[n][at]
                weight[n][at] += len(c.y)
        model = {
            n: np.where(weight[n] > 0, total[n] / np.maximum(weight[n], 1e-300), v)
            for n, v in model.items()
        }
    return model


def low_rank(frozen, factors, rounds, rate, alpha):
    """FedAvg of LoRA's factors (Hu et al. 2021, equation 3) on the net's two kernels.

    `factors` is `{"w0": (a, b), "w1": (a, b)}`; dL/da = s G b^T and dL/db = s a^T G with G the
    gradient of the merged kernel and s = alpha / r.
    """

    def merged(f):
        return frozen | {n: frozen[n] + alpha / b.shape[0] * a @ b for n, (a, b) in f.items()}

    classes = frozen["w1"].shape[1]
    for clients in rounds:
        total, weight = {n: (0 * a, 0 * b) for n, (a, b) in factors.items()}, 0
        for c in clients:
            own = dict(factors)
            for rows in c.batches:
                g = gradient(merged(own), c.x[rows], one_hot(c.y[rows], classes))
                own = {
                    n: (
                        a - rate * alpha / b.shape[0] * g[n] @ b.T,
                        b - rate * alpha / b.shape[0] * a.T @ g[n],
                    )
                    for n, (a, b) in own.items()
                }
            weight += len(c.y)
            total = {
                n: tuple(t + len(c.y) * v for t, v in zip(total[n], own[n], strict=True))
                for n in total
            }
        factors = {n: tuple(v / weight for v in pair) for n, pair in total.items()}
    return merged(factors)
