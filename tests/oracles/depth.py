"""DepthFL in NumPy float64, written from the paper, on a net with an exit after each ReLU layer.

A model is a list of blocks `{w, b, u, c}`: `h <- relu(h w + b)`, and the exit's logits `h u + c`.
"""

import numpy as np
from oracles.widths import one_hot, softmax


def exits(blocks, x):
    """`(hidden layers, logits)` of each block."""
    hidden, logits = [x], []
    for block in blocks:
        hidden.append(np.maximum(hidden[-1] @ block["w"] + block["b"], 0))
        logits.append(hidden[-1] @ block["u"] + block["c"])
    return hidden, logits


def loss(blocks, x, target, weight, teachers=None):
    """Kim et al. 2023, equation 3; `teachers` are the p_j, the exits' own by default."""
    probabilities = [softmax(z) for z in exits(blocks, x)[1]]
    teachers = probabilities if teachers is None else teachers
    total = -sum(np.sum(target * np.log(p)) for p in probabilities)
    if len(blocks) > 1:
        each = [
            np.sum(q * (np.log(q) - np.log(p)))
            for i, p in enumerate(probabilities)
            for j, q in enumerate(teachers)
            if i != j
        ]
        total += weight / (len(blocks) - 1) * sum(each)
    return total / len(x)


def gradient(blocks, x, target, weight):
    """Of `loss`, teachers held fast: exit i pulls by `p_i - y + a / (d - 1) sum_j (p_i - p_j)`."""
    hidden, logits = exits(blocks, x)
    p, d = [softmax(z) for z in logits], len(blocks)
    found, back = [{} for _ in blocks], np.zeros_like(hidden[-1])
    for i in reversed(range(d)):
        pull = p[i] - target
        if d > 1:
            pull = pull + weight / (d - 1) * sum(p[i] - q for j, q in enumerate(p) if j != i)
        pull = pull / len(x)
        back = (back + pull @ blocks[i]["u"].T) * (hidden[i + 1] > 0)
        found[i] = {
            "w": hidden[i].T @ back,
            "b": back.sum(0),
            "u": hidden[i + 1].T @ pull,
            "c": pull.sum(0),
        }
        back = back @ blocks[i]["w"].T
    return found


def federated(blocks, rounds, rate, weights):
    """Client i has depth `D - i % D`; each block is averaged over those that hold it.

    `weights` is a, round by round.
    """
    classes, deepest = blocks[0]["u"].shape[1], len(blocks)
    for t, clients in enumerate(rounds):
        total = [{n: np.zeros_like(v) for n, v in b.items()} for b in blocks]
        weight = [0.0] * deepest
        for c in clients:
            own = [dict(b) for b in blocks[: deepest - c.id % deepest]]
            for rows in c.batches:
                target = one_hot(c.y[rows], classes)
                g = gradient(own, c.x[rows], target, weights[t])
                own = [{n: b[n] - rate * gb[n] for n in b} for b, gb in zip(own, g, strict=True)]
            for i, b in enumerate(own):
                weight[i] += len(c.y)
                for n in b:
                    total[i][n] += len(c.y) * b[n]
        blocks = [
            {n: v / w for n, v in s.items()} if w else b
            for s, w, b in zip(total, weight, blocks, strict=True)
        ]
    return blocks
