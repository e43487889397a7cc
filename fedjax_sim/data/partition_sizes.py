"""Partitions that know nothing of labels: equal, drawn or listed sizes, and natural ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.data.partition_base import Partition, apportion, require


def _deal(
    sizes_: np.ndarray, n_examples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Give `sizes_[i]` random examples to client i; what is left over is given to nobody."""
    order = rng.permutation(n_examples)[: int(sizes_.sum())]
    return order.astype(np.int64), sizes_.astype(np.int64)


def fit(wanted: np.ndarray, n_examples: int, least: int) -> np.ndarray:
    """Scale sizes down to what is there, keeping everybody's minimum.

    Args:
      wanted: int `[N]`, each at least `least`.
      n_examples: E, at least `N * least`.
      least: the minimum; only what lies above it is scaled.

    Returns:
      int64 `[N]`: `wanted` itself where its sum is at most E, else sizes that sum to E.
    """
    above = wanted - least
    if wanted.sum() <= n_examples:
        return wanted
    return least + apportion(above, n_examples - least * len(wanted))


def iid(clients: int, size: int | None = None) -> Partition:
    """Deal examples at random, sizes equal up to one.

    Args:
      clients: N, at most the number of examples.
      size: examples of each client; None deals all that there are.
    """
    clients = integer("partition.clients", clients, least=1)
    if size is not None:
        size = integer("partition.size", size, least=1)

    def assign(
        labels: np.ndarray | None, n_examples: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        del labels
        require(clients, size or 1, n_examples)
        total = n_examples if size is None else clients * size
        equal = total // clients + (np.arange(clients) < total % clients)
        return _deal(equal, n_examples, rng)

    params = {"clients": clients} | ({} if size is None else {"size": size})
    return Partition("iid", clients, params, assign)


def sizes_lognormal(
    clients: int, mu: float = 4.0, sigma: float = 1.5, low: int = 10, high: int = 5000
) -> Partition:
    """Sizes drawn from a clipped log-normal law, examples at random.

    Sizes are `clip(round(exp(mu + sigma z)), low, high)`. Where they sum to more than there
    is, the part above `low` is scaled down; where to less, the other examples are not used.

    Args:
      clients: N.
      mu: mean of the logarithm of the size.
      sigma: standard deviation of the logarithm of the size.
      low: smallest size, at least 1.
      high: largest size.
    """
    clients = integer("partition.clients", clients, least=1)
    number("partition.mu", mu, least=-700, most=700)
    number("partition.sigma", sigma, least=0, most=700)
    low = integer("partition.low", low, least=1)
    high = integer("partition.high", high, least=low)

    def assign(
        labels: np.ndarray | None, n_examples: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        del labels
        require(clients, low, n_examples)
        exponent = np.clip(mu + sigma * rng.standard_normal(clients), np.log(low), np.log(high))
        wanted = np.clip(np.rint(np.exp(exponent)), low, high).astype(np.int64)
        return _deal(fit(wanted, n_examples, low), n_examples, rng)

    params = {"clients": clients, "mu": mu, "sigma": sigma, "low": low, "high": high}
    return Partition("sizes_lognormal", clients, params, assign)


def sizes_powerlaw(clients: int, exponent: float = 1.2, min_size: int = 1) -> Partition:
    """Sizes that fall as `rank^-exponent` above a minimum, examples at random, all of them used.

    Which client has which rank is drawn, so that ids say nothing about sizes.

    Args:
      clients: N.
      exponent: 0 gives equal sizes; 1 is Zipf's law.
      min_size: what every client has at least.
    """
    clients = integer("partition.clients", clients, least=1)
    number("partition.exponent", exponent, least=0, most=50)
    min_size = integer("partition.min_size", min_size, least=1)

    def assign(
        labels: np.ndarray | None, n_examples: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        del labels
        require(clients, min_size, n_examples)
        weights = np.arange(1.0, clients + 1) ** -exponent
        law = min_size + apportion(weights, n_examples - clients * min_size)
        return _deal(rng.permutation(law), n_examples, rng)

    params = {"clients": clients, "exponent": exponent, "min_size": min_size}
    return Partition("sizes_powerlaw", clients, params, assign)


def sizes(sizes: Sequence[int]) -> Partition:
    """Listed sizes, examples at random; examples beyond the sum are not used.

    Args:
      sizes: one whole number of at least 1 for each client `[N]`.
    """
    listed = np.asarray(sizes)
    if listed.ndim != 1 or len(listed) == 0 or listed.dtype.kind not in "iu":
        raise InputError("partition.sizes", sizes, "must be a list of whole numbers, one a client")
    if listed.min() < 1:
        raise InputError("partition.sizes", int(listed.min()), "every size must be at least 1")
    listed = listed.astype(np.int64)

    def assign(
        labels: np.ndarray | None, n_examples: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        del labels
        if listed.sum() > n_examples:
            remedy = f"sizes must sum to at most the {n_examples} examples that are there"
            raise InputError("partition.sizes", f"sum {listed.sum()}", remedy)
        return _deal(listed, n_examples, rng)

    return Partition("sizes", len(listed), {"sizes": listed.tolist()}, assign)


def natural(ids: Sequence[int] | Sequence[str] | np.ndarray) -> Partition:
    """Clients that the data already name.

    Args:
      ids: one integer or string for each example `[E]`; clients are numbered by sorted id and
        `Partition.names` keeps the ids. Stored order is kept within a client.
    """
    named = np.asarray(ids)
    if named.ndim != 1 or len(named) == 0 or named.dtype.kind not in "iubUS":
        remedy = "must be one integer or string for each example"
        raise InputError("partition.ids", f"{named.dtype} {named.shape}", remedy)
    names, owner = np.unique(named, return_inverse=True)

    def assign(
        labels: np.ndarray | None, n_examples: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        del labels, rng
        if len(owner) != n_examples:
            remedy = f"must name one client for each of the {n_examples} examples"
            raise InputError("partition.ids", f"{len(owner)} ids", remedy)
        order = np.argsort(owner, kind="stable")
        return order.astype(np.int64), np.bincount(owner).astype(np.int64)

    return Partition("natural", len(names), {"clients": len(names)}, assign, names)
