"""Clustered algorithms in NumPy float64, written from the papers; a round is a list of `Client`s.

Groups are found by trying all partitions, which a few clients allow.
"""

import itertools

import numpy as np
from oracles.federated import local_sgd, weights_of
from oracles.softmax import gradient, loss


def ifca(
    models,
    rounds,
    classes,
    rate,
    *,
    weighting="uniform",
    forced=(),
    server=None,
    averaging="models",
):
    """Ghosh et al. 2020, algorithm 1; Mansour et al. 2020 with `forced` first assignments.

    Args:
      models: [M, P].
      forced: for the first rounds, {client: group} whatever the losses.
      server: a list of M rules that take a group's mean decrease; None is the plain mean.
      averaging: `models`, or `gradients`: one step on the sum of gradients over |cohort|.

    Returns:
      models [M, P], and each round's {client: group}.
    """
    models, told = [np.array(m) for m in models], []
    for r, clients in enumerate(rounds):
        if r < len(forced):
            mine = {c.id: forced[r][c.id] for c in clients}
        else:
            mine = {
                c.id: int(np.argmin([loss(m, c.x, c.y, classes) for m in models])) for c in clients
            }
        told.append(mine)
        after = list(models)
        for m, model in enumerate(models):
            group = [c for c in clients if mine[c.id] == m]
            if not group:
                continue
            if averaging == "gradients":
                total = sum(gradient(model, c.x, c.y, classes) for c in group)
                after[m] = model - rate * total / len(clients)
                continue
            p = weights_of(group, weighting)
            trained = [local_sgd(model, c, classes, rate) for c in group]
            mean = sum(w * y for w, y in zip(p, trained, strict=True))
            after[m] = mean if server is None else model + server[m].step(model - mean)
        models = after
    return np.array(models), told


def hierfavg(theta, rounds, classes, rate, edge_of, n_edges, edge_rounds):
    """Liu et al. 2019, algorithm 1: (edges [M, P], weights [M] since the last meeting)."""
    edges, weight = [np.array(theta)] * n_edges, np.zeros(n_edges)
    for r, clients in enumerate(rounds):
        after = list(edges)
        for e, model in enumerate(edges):
            group = [c for c in clients if edge_of[c.id] == e]
            if group:
                p = weights_of(group, "examples")
                trained = [local_sgd(model, c, classes, rate) for c in group]
                after[e] = sum(w * y for w, y in zip(p, trained, strict=True))
                weight[e] += sum(len(c.y) for c in group)
        edges = after
        if (r + 1) % edge_rounds == 0:
            cloud = sum(w * x for w, x in zip(weight, edges, strict=True)) / weight.sum()
            edges, weight = [cloud] * n_edges, np.zeros(n_edges)
    return np.array(edges), weight


def grouped(theta, rounds, classes, rate, groups, n_clients, warmup, every):
    """One common model for `warmup` rounds, then one a group of alike directions of updates.

    Sketches are the updates themselves, of norm 1. Returns models [M, P], ids [N] (-1 for none),
    the common model, and each round's {client: where it trained: "common" or a group}.
    """
    models, ids = [np.array(theta)] * groups, np.full(n_clients, -1)
    sketch, centers, told = {}, None, []
    for r, clients in enumerate(rounds):
        since = r + 1 - warmup
        again = bool(every) and since > 0 and since % every == 0
        survey, common = centers is None or again, mean_of_groups(models, ids)
        y, place, where = {}, {}, {}
        newcomers = []
        for c in clients:
            shared = survey or ids[c.id] < 0
            begin = common if shared else models[ids[c.id]]
            where[c.id] = "common" if shared else int(ids[c.id])
            y[c.id] = local_sgd(begin, c, classes, rate)
            unit = (begin - y[c.id]) / np.linalg.norm(begin - y[c.id])
            place[c.id] = ids[c.id]
            if centers is None:
                sketch[c.id] = sketch.get(c.id, 0) + unit
                place[c.id] = 0
            elif shared:
                sketch[c.id] = unit
                if ids[c.id] < 0:
                    place[c.id] = int(np.argmax(centers @ unit))
                    newcomers.append(c.id)
        told.append(where)
        if centers is None:
            p = weights_of(clients, "examples")
            models = [sum(w * y[c.id] for w, c in zip(p, clients, strict=True))] * groups
        elif not again:
            models = [
                _mean([c for c in clients if place[c.id] == m], y, model)
                for m, model in enumerate(models)
            ]
        for i in newcomers:
            ids[i] = place[i]
        if again or (centers is None and since >= 0 and len(sketch) >= groups):
            found = best_partition(sketch, groups, n_clients)
            ids = found if centers is None else same_names(found, ids, groups)
            sums = [sum(_unit(sketch[i]) for i in sketch if ids[i] == m) for m in range(groups)]
            centers = np.array([_unit(s) for s in sums])
    return np.array(models), ids, mean_of_groups(models, ids), told


def _mean(group, trained, model):
    if not group:
        return model
    p = weights_of(group, "examples")
    return sum(w * trained[c.id] for w, c in zip(p, group, strict=True))


def mean_of_groups(models, ids):
    """Weighted by the groups' numbers of clients; the first where there are no groups."""
    sizes = np.array([np.sum(ids == m) for m in range(len(models))])
    if sizes.sum() == 0:
        return models[0]
    return sum(s * x for s, x in zip(sizes, models, strict=True)) / sizes.sum()


def best_partition(sketch, groups, n_clients):
    """Of all partitions that of largest `sum over groups |sum of unit vectors|`; -1 for none."""
    seen = sorted(sketch)
    best, value = None, -1.0
    for labels in itertools.product(range(groups), repeat=len(seen)):
        if len(set(labels)) < groups:
            continue
        sums = np.zeros((groups, len(sketch[seen[0]])))
        for i, m in zip(seen, labels, strict=True):
            sums[m] += _unit(sketch[i])
        total = np.linalg.norm(sums, axis=1).sum()
        if total > value + 1e-12:
            best, value = labels, total
    ids = np.full(n_clients, -1)
    ids[seen] = best
    return ids


def same_names(new, old, groups):
    """New labels under the permutation that keeps most clients where they were."""
    names = max(
        itertools.permutations(range(groups)),
        key=lambda p: sum(old[i] == p[new[i]] for i in range(len(new)) if new[i] >= 0),
    )
    return np.array([names[m] if m >= 0 else -1 for m in new])


def _unit(v):
    return v / np.linalg.norm(v)
