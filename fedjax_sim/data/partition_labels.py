"""Partitions by label: Dirichlet, McMahan's shards, a fixed number of classes a client."""

from __future__ import annotations

import numpy as np

from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.data.partition_base import Partition, class_index, grouped, require, top_up


def _log_gamma_draws(
    alpha: float | np.ndarray, shape: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Logarithms of Gamma(alpha, 1) draws, exact for every alpha > 0.

    Gamma(alpha) = Gamma(alpha + 1) U^(1/alpha) in law; the logarithm never underflows, where
    Gamma(1e-4) itself is 0 in float64 for most draws.
    """
    log_draw = np.log(rng.standard_gamma(alpha + 1.0, shape))
    log_draw += np.log1p(-rng.random(shape)) / alpha
    return log_draw


def _softmax(log_weights: np.ndarray, axis: int) -> np.ndarray:
    """Normalise in place along `axis`; rows or columns sum to 1."""
    log_weights -= log_weights.max(axis=axis, keepdims=True)
    weights = np.exp(log_weights, out=log_weights)
    weights /= weights.sum(axis=axis, keepdims=True)
    return weights


def _round_along(shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Round nonnegative rows to whole numbers that keep each row's (whole) sum.

    Systematic rounding: a uniform shift u per row, then differences of `floor(cumsum + u)`.
    Each entry is its share rounded up or down, and equals it in the mean.

    Args:
      shares: float `[R, K]`, overwritten; row sums are whole numbers up to rounding error.
      rng: source of the shifts.

    Returns:
      int64 `[R, K]`.
    """
    totals = np.rint(shares.sum(axis=1)).astype(np.int64)
    edges = np.cumsum(shares, axis=1, out=shares)
    edges += rng.random((len(shares), 1))
    edges = np.floor(edges, out=edges).astype(np.int64)
    edges = np.minimum(edges, totals[:, None])
    edges[:, -1] = totals
    return np.diff(edges, axis=1, prepend=0)


def _deal_by_class(
    classes_: np.ndarray, counts: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Owners when client i takes `counts[c, i]` random examples of class c.

    Args:
      classes_: int `[E]` class of each example.
      counts: int `[C, N]`, row c summing to the size of class c.
      rng: picks the examples.

    Returns:
      int64 `[E]`.
    """
    n_classes, clients = counts.shape
    shuffle = rng.permutation(len(classes_))
    by_class = shuffle[np.argsort(classes_[shuffle], kind="stable")]
    owner = np.empty(len(classes_), np.int64)
    owner[by_class] = np.repeat(np.tile(np.arange(clients), n_classes), counts.ravel())
    return owner


def _balanced_owner(
    classes_: np.ndarray, wishes: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Owners that meet wishes `[N, C]` as far as the classes reach.

    Where clients wish for more of a class than there is, a random part of those wishes is met
    and the others are met with what no one wished for. Row sums of `wishes` add up to E.
    """
    clients, n_classes = wishes.shape
    wish_client = np.repeat(np.tile(np.arange(clients), n_classes), wishes.T.ravel())
    demand = wishes.sum(axis=0)
    supply = np.bincount(classes_, minlength=n_classes)
    shuffle = rng.permutation(len(classes_))
    by_class = shuffle[np.argsort(classes_[shuffle], kind="stable")]
    wish_class = np.repeat(np.arange(n_classes), demand)
    rank = rng.permutation(len(wish_client))
    rank = rank[np.argsort(wish_class[rank], kind="stable")]
    wish_client = wish_client[rank]
    met = np.arange(len(wish_client)) - np.repeat(np.cumsum(demand) - demand, demand)
    met = met < np.repeat(supply, demand)
    taken = np.arange(len(by_class)) - np.repeat(np.cumsum(supply) - supply, supply)
    taken = taken < np.repeat(demand, supply)
    owner = np.empty(len(classes_), np.int64)
    owner[by_class[taken]] = wish_client[met]
    owner[by_class[~taken]] = rng.permutation(wish_client[~met])
    return owner


def dirichlet(clients: int, alpha: float, min_size: int = 1, balanced: bool = False) -> Partition:
    """Label skew from a Dirichlet law: small alpha, few labels a client.

    Unbalanced (the common benchmark): each class is dealt out by its own proportions over the
    clients, `p_c ~ Dirichlet_N(alpha, ..., alpha)`, so that sizes differ too. Balanced: sizes
    are equal up to one and each client draws its own label mix, `q_i ~ Dirichlet_C(alpha C
    prior)`; wishes for a class that has run out are met from what is left
    (with few clients and a small alpha that is a sizeable part; it falls as 1 / sqrt(N)).

    Gamma draws are kept as logarithms, so alpha from 1e-4 to 1e4 gives no NaN. Nothing is
    drawn again: clients below `min_size` receive random examples from clients above it. All
    examples are given out, each once.

    Args:
      clients: N.
      alpha: concentration, greater than 0.
      min_size: what every client has at least.
      balanced: equal sizes.

    Cost: N x C Gamma draws and two sorts of E.

    Reference: M. Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural
    Networks", 2019, arXiv:1905.12022 (unbalanced); T.-M. H. Hsu, H. Qi, M. Brown, "Measuring
    the Effects of Non-Identical Data Distribution", 2019, arXiv:1909.06335 (balanced).
    """
    clients = integer("partition.clients", clients, least=1)
    number("partition.alpha", alpha, above=0)
    min_size = integer("partition.min_size", min_size, least=1)

    def assign(
        labels: np.ndarray | None, n_examples: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        index, n_classes = class_index(labels, n_examples)
        require(clients, min_size, n_examples)
        supply = np.bincount(index, minlength=n_classes)
        if balanced:
            mix = _log_gamma_draws(
                alpha * n_classes * supply / n_examples, (clients, n_classes), rng
            )
            sizes = n_examples // clients + (np.arange(clients) < n_examples % clients)
            wishes = _round_along(_softmax(mix, axis=1) * sizes[:, None], rng)
            owner = _balanced_owner(index, wishes, rng)
        else:
            shares = _softmax(_log_gamma_draws(alpha, (n_classes, clients), rng), axis=1)
            counts = _round_along(shares * supply[:, None], rng)
            owner = top_up(_deal_by_class(index, counts, rng), clients, min_size, rng)
        return grouped(owner, clients, rng)

    params = {"clients": clients, "alpha": alpha, "min_size": min_size, "balanced": balanced}
    return Partition("dirichlet", clients, params, assign)


def shards(clients: int, per_client: int = 2) -> Partition:
    """McMahan's pathological split: sort by label, cut into equal shards, deal them out.

    With `clients * per_client` shards of equal size (up to one example) a client sees at most
    `2 per_client` labels, and about `per_client` where classes are equal and shards divide them.

    Args:
      clients: N.
      per_client: shards dealt to each client.

    Reference: H. B. McMahan et al., "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", 2017, arXiv:1602.05629, section 3.
    """
    clients = integer("partition.clients", clients, least=1)
    per_client = integer("partition.per_client", per_client, least=1)
    n_shards = clients * per_client

    def assign(
        labels: np.ndarray | None, n_examples: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        index, _ = class_index(labels, n_examples)
        require(clients, per_client, n_examples)
        shuffle = rng.permutation(n_examples)
        by_class = shuffle[np.argsort(index[shuffle], kind="stable")]
        lengths = n_examples // n_shards + (np.arange(n_shards) < n_examples % n_shards)
        owner = np.empty(n_examples, np.int64)
        owner[by_class] = np.repeat(rng.permutation(n_shards) // per_client, lengths)
        return grouped(owner, clients, rng)

    return Partition("shards", clients, {"clients": clients, "per_client": per_client}, assign)


def _class_design(
    clients: int, n_classes: int, per_client: int, rng: np.random.Generator
) -> np.ndarray:
    """Distinct classes of each client, int `[N, k]`, every class used equally often.

    Clients come in blocks of C. In a block, client i takes the classes `perm[i + shift]` for k
    distinct shifts, so each class is used exactly k times. The last, smaller block runs on
    through one permutation, which covers as many classes as it can.
    """
    blocks, rest = divmod(clients, n_classes)
    every = np.tile(np.arange(n_classes), (blocks, 1))
    perms = rng.permuted(every, axis=1)
    shifts = rng.permuted(every, axis=1)[:, None, :per_client]
    slots = (np.arange(n_classes)[None, :, None] + shifts) % n_classes
    slots = slots.reshape(blocks, n_classes * per_client)
    full = np.take_along_axis(perms, slots, axis=1).reshape(-1, per_client)
    run = (np.arange(rest)[:, None] * per_client + np.arange(per_client)) % n_classes
    design = np.concatenate([full, rng.permutation(n_classes)[run]])
    return design[rng.permutation(clients)]


def classes(clients: int, per_client: int = 2) -> Partition:
    """Every client holds examples of `per_client` classes, and of no others.

    Classes are used equally often up to one, and the examples of a class are cut into equal
    parts for its clients. With fewer than C / per_client clients some classes have no client,
    and their examples are not used; all others are given out.

    Args:
      clients: N.
      per_client: k, distinct classes of each client, at most the number of classes. A class
        with fewer examples than clients reaches only some of them.

    Raises:
      InputError: when assigned, where a client would be left without any example.
    """
    clients = integer("partition.clients", clients, least=1)
    per_client = integer("partition.per_client", per_client, least=1)

    def assign(
        labels: np.ndarray | None, n_examples: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        index, n_classes = class_index(labels, n_examples)
        integer("partition.per_client", per_client, most=n_classes)
        require(clients, 1, n_examples)
        pair_class = _class_design(clients, n_classes, per_client, rng).ravel()
        by_pair = np.argsort(pair_class, kind="stable")
        users = np.bincount(pair_class, minlength=n_classes)
        supply = np.bincount(index, minlength=n_classes)
        rank = np.arange(len(by_pair)) - np.repeat(np.cumsum(users) - users, users)
        base, extra = np.divmod(supply, np.maximum(users, 1))
        counts = np.repeat(base, users) + (rank < np.repeat(extra, users))
        owner = np.full(n_examples, -1, np.int64)
        shuffle = rng.permutation(n_examples)
        by_class = shuffle[np.argsort(index[shuffle], kind="stable")]
        by_class = by_class[users[index[by_class]] > 0]
        owner[by_class] = np.repeat(by_pair // per_client, counts)
        order, sizes = grouped(owner, clients, rng)
        _refuse_empty(sizes, supply, users)
        return order, sizes

    return Partition("classes", clients, {"clients": clients, "per_client": per_client}, assign)


def _refuse_empty(sizes: np.ndarray, supply: np.ndarray, users: np.ndarray) -> None:
    if (sizes > 0).all():
        return
    rare = int(np.argmin(supply / np.maximum(users, 1)))
    remedy = (
        f"leaves {np.count_nonzero(sizes == 0)} clients empty: class number {rare} has "
        f"{supply[rare]} examples for {users[rare]} clients; ask for fewer clients or more "
        "classes a client"
    )
    raise InputError("partition.clients", len(sizes), remedy)
