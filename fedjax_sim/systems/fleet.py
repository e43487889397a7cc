"""The fleet: what every client's device can do, as arrays over the population."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import special

from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.systems import devices as device_tables
from fedjax_sim.systems import networks


class Fleet(NamedTuple):
    """Devices and links of N clients; of a cohort, the same with leaves `[K]`.

    Attributes:
      flops_per_s: `[N]`, while training.
      down_mean: `[N]` bytes/s, of the normal that a round's down-link is drawn from.
      down_sigma: `[N]` bytes/s.
      up_mean: `[N]` bytes/s.
      up_sigma: `[N]` bytes/s.
      online: `[N]` in [0, 1], share of time in which the client can be reached.
      phase: `[N]` in [0, 1), where the client's day stands at time 0.
    """

    flops_per_s: Any
    down_mean: Any
    down_sigma: Any
    up_mean: Any
    up_sigma: Any
    online: Any
    phase: Any


def fleet(
    n_clients: int,
    *,
    seed: int = 0,
    devices: Any = None,
    links: Any = None,
    median_flops: float = device_tables.MEDIAN_FLOPS,
    correlated_with: Any = None,
    correlation: float = 0.0,
    online: Any = 1.0,
) -> Fleet:
    """Draw a fleet: a device of the table for each client, a link user, the hour of its day.

    Args:
      n_clients: N.
      seed: of the draws; the fleet does not depend on a run's seed.
      devices: relative speeds to draw from `[M]`; None: `devices.phones()`.
      links: rows to draw from `[U, 4]` in bytes/s; None: `networks.mobile()`.
      median_flops: FLOP/s of a device of relative speed 1.
      correlated_with: `[N]` numbers, such as clients' sizes, that speed goes with.
      correlation: Spearman's rank correlation between the two, in [-1, 1]: positive gives the
        largest clients the fastest devices. Exact in expectation where `correlated_with` has no
        ties; among equal values the order is random, which weakens it.
      online: share of time that clients can be reached, a number or `[N]`.

    Returns:
      `Fleet` of float64 NumPy arrays `[N]`.

    Raises:
      InputError: naming the argument.

    Cost: O(N log N) on the host.

    Example:
      >>> drawn = fleet(1000, seed=1)
      >>> bool(1.6e9 < np.median(drawn.flops_per_s) < 2.4e9)
      True
    """
    integer("n_clients", n_clients, least=1)
    number("median_flops", median_flops, above=0)
    number("online", online, least=0, most=1)
    rng = np.random.default_rng([seed, 0x5F1EE7])
    table = device_tables.phones() if devices is None else devices
    at = correlated_quantiles(rng, n_clients, correlated_with, correlation)
    speeds = device_tables.speeds_at(at, np.asarray(table, float))
    rows = _link_rows(links)[rng.integers(0, len(_link_rows(links)), n_clients)]
    return Fleet(
        speeds * median_flops,
        *(np.ascontiguousarray(column) for column in rows.T),
        online=np.broadcast_to(np.asarray(online, float), (n_clients,)).copy(),
        phase=rng.random(n_clients),
    )


def correlated_quantiles(
    rng: np.random.Generator, n: int, values: Any, correlation: float
) -> np.ndarray:
    """Uniform numbers whose ranks go with those of `values`, by a Gaussian copula.

    Of two normals with Pearson correlation p, Spearman's is `6 / pi asin(p / 2)`; so p is
    `2 sin(pi correlation / 6)`.

    Args:
      rng: of the draws.
      n: how many.
      values: `[n]`, or None for independent ones.
      correlation: Spearman's, in [-1, 1].

    Returns:
      float64 `[n]` in [0, 1).
    """
    number("correlation", correlation, least=-1, most=1)
    own = rng.standard_normal(n)
    if values is None or correlation == 0:
        if correlation != 0:
            raise InputError("correlation", correlation, "needs correlated_with, what it is with")
        return special.ndtr(own)
    values = np.asarray(values, float).ravel()
    if values.shape != (n,):
        raise InputError("correlated_with", values.shape, f"must be of {n} clients")
    number("correlated_with", values)
    order = np.lexsort((rng.random(n), values))
    rank = np.empty(n)
    rank[order] = np.arange(n)
    theirs = special.ndtri((rank + 0.5) / n)
    p = 2.0 * np.sin(np.pi * correlation / 6.0)
    return special.ndtr(p * theirs + np.sqrt(max(1.0 - p * p, 0.0)) * own)


def _link_rows(links: Any) -> np.ndarray:
    rows = networks.mobile() if links is None else np.asarray(links, float)
    if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows):
        raise InputError("links", rows.shape, "must be rows of down and up mean and sigma: [U, 4]")
    number("links", rows[:, [0, 2]], above=0)
    number("links", rows[:, [1, 3]], least=0)
    return rows
