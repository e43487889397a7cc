"""How evenly a metric falls on clients: dispersion, tails, indices of inequality, group parity.

Every function takes one value a client, `[N]`, and a bool mask `[N]` of the clients that count
(those that hold test examples); None counts all. All are pure, run under jit and vmap, and share
one policy: a client outside the mask has no influence, whatever its value; a NaN of a client
inside it makes every result NaN, so that a lost client is seen; of nobody the result is NaN.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core.types import Array

WORST = 0.1
"""The share of clients behind `worst10` in records."""

TAIL = 0.5
"""The share of clients behind `cvar` in records: the worse half."""


class Ordered(NamedTuple):
    """Values from small to large, those that do not count last and 0.

    Attributes:
      values: float `[N]`.
      n: float scalar, how many count.
    """

    values: Array
    n: Array


def ordered(values: Any, mask: Any = None) -> Ordered:
    """Sort once for all the functions below.

    Cost: `N log N`.
    """
    x = jnp.asarray(values, float)
    # NaN sorts last: who does not count, and behind the others a NaN of who does.
    x = jnp.sort(x if mask is None else jnp.where(mask, x, jnp.nan))
    ones = jnp.ones_like(x)
    n = jnp.asarray(x.shape[0], x.dtype) if mask is None else _dot(ones * mask, ones)
    return Ordered(jnp.where(jnp.arange(x.shape[0]) < n, x, 0), n)


def _dot(a: Array, b: Array) -> Array:
    """A product, which compiles to less than a sum does on a CPU."""
    return jnp.matmul(a, b, precision="highest")


def _given(values: Any, mask: Any) -> Ordered:
    return values if isinstance(values, Ordered) else ordered(values, mask)


def _ranks(x: Ordered) -> Array:
    return jnp.arange(x.values.shape[0], dtype=x.values.dtype)


def _from_worst(x: Ordered, high: Array | bool) -> Array:
    """Ranks from the worst on, below 0 for values that do not count."""
    return jnp.where(high, x.n - 1 - _ranks(x), _ranks(x))


def _sum(parts: Array, x: Ordered) -> Array:
    """`sum_i parts_i x_(i)`, parts `[..., N]`; what is not finite shows, also where a part is 0."""
    # All but std are such sums of the sorted values, so that `_all` takes them in one product.
    return _dot(parts, x.values)


def _mean_parts(x: Ordered) -> Array:
    return jnp.where(_ranks(x) < x.n, 1, 0) / x.n


def _percentile_parts(x: Ordered, p: float) -> Array:
    place = jnp.maximum(x.n - 1, 0) * (p / 100)
    return jnp.where(x.n > 0, jnp.clip(1 - jnp.abs(_ranks(x) - place), 0, 1), jnp.nan)


def _worst_parts(x: Ordered, share: float, high: Array | bool) -> Array:
    # 0.1 x 30 is 3 and a little in floating point, and must not become 4.
    k = jnp.maximum(jnp.ceil(share * x.n - 1e-4), 1)
    rank = _from_worst(x, high)
    return jnp.where(x.n > 0, jnp.where((rank >= 0) & (rank < k), 1 / k, 0), jnp.nan)


def _cvar_parts(x: Ordered, share: float, high: Array | bool) -> Array:
    rank = _from_worst(x, high)
    return jnp.where(rank >= 0, jnp.clip(share * x.n - rank, 0, 1), 0) / (share * x.n)


def _lean_parts(x: Ordered) -> Array:
    return jnp.where(_ranks(x) < x.n, 2 * _ranks(x) - x.n + 1, 0) / jnp.square(x.n)


def _std(x: Ordered, mean: Array) -> Array:
    off = jnp.where(_ranks(x) < x.n, x.values - mean, 0)
    return jnp.sqrt(_dot(off, off) / x.n)


def _jain(std: Array, mean: Array) -> Array:
    return jnp.where(mean == 0, 1, 1 / (1 + jnp.square(std / jnp.where(mean == 0, 1, mean))))


def _gini(lean: Array, mean: Array) -> Array:
    return jnp.where(mean == 0, 0, lean / jnp.where(mean == 0, 1, mean))


def mean(values: Any, mask: Any = None) -> Array:
    """`sum_i x_i / n`, clients alike.

    Args:
      values: float `[N]`, or what `ordered` made of them.
      mask: bool `[N]`, who counts.
    """
    x = _given(values, mask)
    return _sum(_mean_parts(x), x)


def std(values: Any, mask: Any = None) -> Array:
    """`sqrt(sum_i (x_i - mean)^2 / n)`, the deviation of this population; arguments as `mean`.

    What q-FFL and its followers report as the variance of accuracy is its square.
    """
    x = _given(values, mask)
    return _std(x, mean(x))


def percentile(values: Any, p: float, mask: Any = None) -> Array:
    """The p-th percentile with linear interpolation between order statistics, as NumPy's.

    Args:
      values: as `mean`.
      p: in 0 .. 100.
      mask: as `mean`.
    """
    x = _given(values, mask)
    return _sum(_percentile_parts(x, p), x)


def worst(
    values: Any, mask: Any = None, *, share: float = WORST, high: Array | bool = False
) -> Array:
    """Mean of the `ceil(share n)` worst clients: whole clients, one at least.

    Args:
      values: as `mean`.
      mask: as `mean`.
      share: of the clients, in (0, 1].
      high: the largest values are the worst ones (losses) instead of the smallest (accuracies).

    Reference: Li et al., Fair Resource Allocation in Federated Learning, 2019, arXiv:1905.10497,
      table 1 ("worst 10 %").
    """
    x = _given(values, mask)
    return _sum(_worst_parts(x, share, high), x)


def cvar(
    values: Any, mask: Any = None, *, share: float = TAIL, high: Array | bool = False
) -> Array:
    """Conditional value at risk: mean of the worst `share` of the clients, fractions counted.

    `sum_i c_i x_(i) / (share n)` over clients from worst to best, `c_i = clip(share n - i, 0, 1)`
    for i = 0, 1, ... For a loss it equals `min_t t + sum_i max(x_i - t, 0) / (share n)`. With
    share = 1 it is the mean; as share falls to 0, the worst client.

    Args:
      values: as `mean`.
      mask: as `mean`.
      share: of the clients, in (0, 1].
      high: as `worst`.

    Reference: Rockafellar and Uryasev, Optimization of Conditional Value-at-Risk, 2000; in
      federated learning Laguel et al., A Superquantile Approach, 2021, arXiv:2002.11223.
    """
    x = _given(values, mask)
    return _sum(_cvar_parts(x, share, high), x)


def jain(values: Any, mask: Any = None) -> Array:
    """Jain's index `(sum_i x_i)^2 / (n sum_i x_i^2)` of values of at least 0.

    1 where all are equal (all 0 included), 1/n where one client has everything; k/n where k
    clients share it and the others have nothing. It is `1 / (1 + (std / mean)^2)`. Arguments as
    `mean`.

    Reference: Jain, Chiu and Hawe, A Quantitative Measure of Fairness, 1984, DEC-TR-301.
    """
    x = _given(values, mask)
    return _jain(std(x), mean(x))


def gini(values: Any, mask: Any = None) -> Array:
    """Gini's coefficient `sum_ij |x_i - x_j| / (2 n^2 mean)` of values of at least 0.

    0 where all are equal (all 0 included), `1 - 1/n` where one client has everything. Computed
    from the sorted values as `sum_i (2 i - n + 1) x_(i) / (n^2 mean)`, i = 0 .. n-1. Arguments
    as `mean`.

    Reference: Gini, Variabilita e mutabilita, 1912.
    """
    x = _given(values, mask)
    return _gini(_sum(_lean_parts(x), x), mean(x))


def group_means(values: Any, groups: Any, n_groups: int, mask: Any = None) -> Array:
    """Mean over the counted clients of each group; NaN for a group in which nobody counts.

    Args:
      values: float `[N]`.
      groups: int `[N]` in 0 .. n_groups-1; clients of other numbers are in no group.
      n_groups: M.
      mask: bool `[N]`, who counts.

    Returns:
      float `[M]`.
    """
    x = jnp.asarray(values, float)
    counts = jnp.ones(x.shape, bool) if mask is None else jnp.asarray(mask, bool)
    ids = jnp.asarray(groups)
    total = jax.ops.segment_sum(jnp.where(counts, x, 0), ids, n_groups)
    many = jax.ops.segment_sum(counts.astype(x.dtype), ids, n_groups)
    return total / many


def worst_group(means: Array, *, high: bool = False) -> Array:
    """The smallest (largest, where `high`) of the group means `[M]`; NaN ones are left out."""
    return _extreme(means, high)


def group_gap(means: Array) -> Array:
    """`max_g m_g - min_g m_g` of the group means `[M]`, 0 being parity; NaN ones are left out."""
    return _extreme(means, True) - _extreme(means, False)


def _extreme(means: Array, high: bool) -> Array:
    known = ~jnp.isnan(means)
    found = jnp.max(means, initial=-jnp.inf, where=known)
    if not high:
        found = jnp.min(means, initial=jnp.inf, where=known)
    return jnp.where(jnp.any(known), found, jnp.nan)


def spread(values: Array, mask: Array, *, direction: int) -> dict[str, Array]:
    """What every evaluation records of a metric over clients.

    Args:
      values: float `[N]`.
      mask: bool `[N]`, who holds test examples.
      direction: 1 where more is better, -1 where less is, 0 where neither can be said.

    Returns:
      `mean`, `p10`, `p50`, `p90` and `std`; with a direction `worst10` and `cvar` (of the worse
      half); where more is better also `jain` and `gini`.

    Cost: one sort of N.
    """
    return {n: v for n, v in _all(values, mask, direction < 0).items() if n in _told(direction)}


def spreads(
    values: dict[str, Array], masks: dict[str, Array], directions: dict[str, int]
) -> dict[str, dict[str, Array]]:
    """The `spread` of several metrics, computed as one: `{metric: {what: scalar}}`.

    Args:
      values: `{metric: float [N]}`.
      masks: `{metric: bool [N]}`.
      directions: `{metric: direction}`.
    """
    names = list(values)
    high = jnp.array([directions[n] < 0 for n in names])
    table, counts = (jnp.stack([d[n] for n in names]) for d in (values, masks))
    found = jax.vmap(_all)(table, counts, high)
    return {n: {what: found[what][i] for what in _told(directions[n])} for i, n in enumerate(names)}


_PERCENTILES = (10, 50, 90)


def _all(values: Array, mask: Array, high: Array | bool) -> dict[str, Array]:
    x = ordered(values, mask)
    parts = {
        "mean": _mean_parts(x),
        **{f"p{p}": _percentile_parts(x, p) for p in _PERCENTILES},
        "worst10": _worst_parts(x, WORST, high),
        "cvar": _cvar_parts(x, TAIL, high),
        "lean": _lean_parts(x),
    }
    sums = _sum(jnp.stack(list(parts.values())), x)
    found = dict(zip(parts, sums, strict=True))
    average, lean = found["mean"], found.pop("lean")
    spread = _std(x, average)
    return found | {"std": spread, "jain": _jain(spread, average), "gini": _gini(lean, average)}


def _told(direction: int) -> tuple[str, ...]:
    told = ("mean", "p10", "p50", "p90", "std")
    told += ("worst10", "cvar") if direction else ()
    return told + (("jain", "gini") if direction > 0 else ())


def parity(
    values: Array, mask: Array, groups: Any, n_groups: int, *, direction: int
) -> dict[str, Array]:
    """What every evaluation records of a metric over groups of clients.

    Args:
      values: float `[N]`.
      mask: bool `[N]`, who holds test examples.
      groups: int `[N]`, in 0 .. n_groups-1.
      n_groups: M.
      direction: as `spread`.

    Returns:
      `gap`, and with a direction the worst group's mean: `min` where more is better, else `max`.
      Groups in which nobody counts are left out.
    """
    means = group_means(values, groups, n_groups, mask)
    lost = jnp.any(jnp.isnan(values) & mask)
    out = {"gap": group_gap(means)}
    if direction:
        name = "min" if direction > 0 else "max"
        out[name] = worst_group(means, high=direction < 0)
    return {name: jnp.where(lost, jnp.nan, value) for name, value in out.items()}
