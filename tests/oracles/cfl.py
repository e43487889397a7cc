"""Clustered federated learning in NumPy float64 (Sattler et al. 2019, algorithms 3 and 4)."""

from itertools import product
from typing import NamedTuple

import numpy as np


class Fork(NamedTuple):
    """Where a slot left its parent: the model then, and both sides' mean unit updates."""

    parent: int
    model: np.ndarray
    stays: np.ndarray
    leaves: np.ndarray


class State(NamedTuple):
    """Models by slot, slot and last answered fork by client, forks by slot, splits by round."""

    models: dict
    ids: np.ndarray
    asked: np.ndarray
    forks: dict
    splits: list


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def optimal_bipartition(alike):
    """All bipartitions tried: `(side of each, the smallest largest cosine across)`."""
    k, best = len(alike), (None, np.inf)
    for rest in product([False, True], repeat=k - 1):
        side = np.array([False, *rest])
        if side.any():
            across = alike[np.ix_(side, ~side)].max()
            best = min(best, (side, across), key=lambda found: found[1])
    return best


def gap_of(alike, side):
    """Smallest cosine within a side less the largest across; a side of one has none within."""
    pairs = [(i, j) for i in range(len(side)) for j in range(i)]
    within = [alike[i, j] for i, j in pairs if side[i] == side[j]]
    across = [alike[i, j] for i, j in pairs if side[i] != side[j]]
    return min(within, default=np.inf) - max(across)


def mean_unit(updates):
    return np.mean([u / np.linalg.norm(u) for u in updates], axis=0)


def cfl(theta, rounds, train, n, groups, *, eps1, eps2, gamma_max, gap=-2.0, relative=False):
    """Rounds of clients that have `id` and `weight`; `train(theta, client)` gives y_i."""
    s = State({0: theta}, np.zeros(n, int), np.zeros(n, int), {}, [])
    longest = None
    for number, clients in enumerate(rounds):
        updates, groups_of, sent = {}, {}, dict(s.models)
        for c in clients:
            g = s.ids[c.id]
            waits = [f for f, fork in s.forks.items() if fork.parent == g and f > s.asked[c.id]]
            start = s.forks[min(waits)].model if waits else s.models[g]
            updates[c.id] = start - train(start, c)
            if waits:
                fork = s.forks[min(waits)]
                away = updates[c.id] @ fork.leaves > updates[c.id] @ fork.stays
                s.ids[c.id], s.asked[c.id] = (min(waits) if away else g), min(waits)
            else:
                groups_of.setdefault(g, []).append(c)
        if longest is None:
            longest = max(np.linalg.norm(u) for u in updates.values())
        for g in sorted(groups_of):
            members = sorted(groups_of[g], key=lambda c: c.id)
            own = [updates[c.id] for c in members]
            mean = np.average(own, axis=0, weights=[c.weight for c in members])
            s.models[g] = s.models[g] - mean
            most = max(np.linalg.norm(u) for u in own)
            at_rest = np.linalg.norm(mean) < eps1 * (most if relative else 1)
            pulling = most > eps2 * (longest if relative else 1)
            if not (at_rest and pulling and len(own) > 1 and len(s.models) < groups):
                continue
            alike = np.array([[cosine(a, b) for a in own] for b in own])
            side, across = optimal_bipartition(alike)
            if gamma_max < np.sqrt((1 - across) / 2) and gap_of(alike, side) >= gap:
                new = len(s.models)
                s.models[new] = s.models[g].copy()
                parts = [[u for u, x in zip(own, side, strict=True) if x == w] for w in (0, 1)]
                s.forks[new] = Fork(g, sent[g], mean_unit(parts[0]), mean_unit(parts[1]))
                for c, leaves in zip(members, side, strict=True):
                    s.ids[c.id], s.asked[c.id] = (new if leaves else g), new
                s.splits.append((number, g, new))
    return s
