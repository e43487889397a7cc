"""Fair federated algorithms and fairness metrics in NumPy float64, written from the papers."""

import numpy as np
from oracles.federated import local_sgd, weights_of
from oracles.softmax import loss
from scipy.optimize import linprog, minimize


def losses_of(theta, clients, classes):
    return np.array([loss(theta, c.x, c.y, classes) for c in clients])


def qfedavg(theta, rounds, classes, rate, q, *, weighting="uniform"):
    """Li et al. 2019, algorithm 2, in the paper's own quantities; L = 1 / rate."""
    lipschitz, path = 1 / rate, []
    for clients in rounds:
        p = weights_of(clients, weighting)
        top, bottom = np.zeros_like(theta), 0.0
        for share, f, c in zip(p, losses_of(theta, clients, classes), clients, strict=True):
            grad = lipschitz * (theta - local_sgd(theta, c, classes, rate))
            top += share * f**q * grad
            bottom += share * (q * f ** (q - 1) * grad @ grad + lipschitz * f**q)
        theta = theta - top / bottom
        path.append(theta)
    return path


def term(theta, rounds, classes, rate, t, *, weighting="uniform"):
    """Li et al. 2020, lemma 1 with clients as groups: weights p exp(t F), normalised."""
    path = []
    for clients in rounds:
        w = weights_of(clients, weighting) * np.exp(t * losses_of(theta, clients, classes))
        models = [local_sgd(theta, c, classes, rate) for c in clients]
        theta = sum(a * y for a, y in zip(w / w.sum(), models, strict=True))
        path.append(theta)
    return path


def simplex_projection(v):
    """The closest point of the simplex by a bisection on the shift."""
    low, high = v.min() - 1, v.max()
    for _ in range(200):
        tau = (low + high) / 2
        if np.maximum(v - tau, 0).sum() > 1:
            low = tau
        else:
            high = tau
    return np.maximum(v - tau, 0)


def afl(theta, rounds, classes, rate, lambda_rate, domain_of, domains, *, weighting="examples"):
    """Mohri et al. 2019, algorithm 1 with local steps; unheard domains keep their last loss.

    `domain_of[client]` is its domain. Returns (path, lambda).
    """
    shares, known, path = np.full(domains, 1 / domains), {}, []
    for clients in rounds:
        owner = np.array([domain_of[c.id] for c in clients])
        raw = weights_of(clients, weighting)
        f = losses_of(theta, clients, classes)
        models = [local_sgd(theta, c, classes, rate) for c in clients]
        mixed, total = np.zeros_like(theta), 0.0
        for g in np.unique(owner):
            mine = np.flatnonzero(owner == g)
            inside = raw[mine] / raw[mine].sum()
            known[g] = inside @ f[mine]
            mixed += shares[g] * sum(a * models[i] for a, i in zip(inside, mine, strict=True))
            total += shares[g]
        table = np.full(domains, np.mean(list(known.values())))
        for g, value in known.items():
            table[g] = value
        theta = mixed / total if total > 0 else theta
        shares = simplex_projection(shares + lambda_rate * table)
        path.append(theta)
    return path, shares


def shortest_near(gram, centre, radius):
    """The box-bounded quadratic program, by SciPy's SLSQP from several starts."""
    k = len(centre)
    bounds = [(max(c - radius, 0), min(c + radius, 1)) for c in centre]
    sums_to_one = {"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(k)}
    rng, best = np.random.default_rng(0), None
    for start in [centre, *(vertex(rng.normal(size=k), bounds) for _ in range(3))]:
        found = minimize(
            lambda p: p @ gram @ p, start, jac=lambda p: 2 * gram @ p, bounds=bounds,
            constraints=[sums_to_one], method="SLSQP", options={"ftol": 1e-15, "maxiter": 500},
        )  # fmt: skip
        if best is None or found.fun < best.fun:
            best = found
    return best.x


def vertex(cost, bounds):
    """A corner of the box cut by the simplex."""
    return linprog(cost, A_eq=np.ones((1, len(cost))), b_eq=[1], bounds=bounds).x


def fedmgda(theta, rounds, classes, rate, epsilon, server_rate, *, weighting="uniform"):
    """Hu et al. 2020, algorithm 1: normalise, find the shortest mixture, step."""
    path = []
    for clients in rounds:
        moves = [theta - local_sgd(theta, c, classes, rate) for c in clients]
        u = np.array([m / np.linalg.norm(m) for m in moves])
        mixture = shortest_near(u @ u.T, weights_of(clients, weighting), epsilon)
        theta = theta - server_rate * mixture @ u
        path.append(theta)
    return path


def metrics(values, share=0.5):
    """Fairness of values of which more is better, as slow sums."""
    x = sorted(float(v) for v in values)
    n, total = len(x), sum(x)
    left, tail = share * n, 0.0
    for v in x:
        part = min(1.0, left)
        tail, left = tail + part * v, left - part
    few = max(1, int(np.ceil(round(0.1 * n, 6))))
    return {
        "mean": total / n,
        "std": (sum((v - total / n) ** 2 for v in x) / n) ** 0.5,
        "worst10": sum(x[:few]) / few,
        "cvar": tail / (share * n),
        "jain": total**2 / (n * sum(v * v for v in x)),
        "gini": sum(abs(a - b) for a in x for b in x) / (2 * n * total),
    }
