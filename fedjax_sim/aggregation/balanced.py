"""The mean of group means: every group counts as told, whatever its clients and examples."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedjax_sim.aggregation.grouped import ROW_WEIGHT, GroupedAcc, grouped, over
from fedjax_sim.core.contracts import Aggregator
from fedjax_sim.core.types import Aggregate, Array


def balanced(groups: int, *, share: str | None = None, collect: Sequence[str] = ()) -> Aggregator:
    """`sum_g s_g m_g / sum_g s_g` over the groups heard, m_g being a group's weighted mean.

    Reports are routed by `Report.group`. One of weight 0 counts for nothing, also when it is NaN.

    Args:
      groups: M.
      share: name of the group's share s_g in the `aux` of each of its reports; 1 by default,
        which makes groups equal.
      collect: names of small `aux` values that the server is to see one by one; with `share`
        they must hold `group`.

    Returns:
      An aggregator whose `Aggregate.weight` is the total weight, or 0 where no group that was
      heard has a share; its `aux` has what is collected, as that of `grouped`.

    Raises:
      InputError: when M is not at least 1.

    Cost: M x P memory.
    """
    names = tuple(dict.fromkeys((*collect, *((share, "group") if share else ()))))
    base = grouped(groups, collect=names)

    def finalize(acc: GroupedAcc) -> Aggregate:
        means = base.finalize(acc)
        heard = acc.heard > 0
        shares = jnp.where(heard, _shares(acc, groups, share) if share else 1.0, 0)
        total = jnp.sum(shares)
        part = shares / jnp.where(total > 0, total, 1)

        def mix(mean: Array) -> Array:
            f = over(part, mean).astype(mean.dtype)
            return jnp.sum(jnp.where(f > 0, f * mean, 0), axis=0)

        weight = jnp.where(total > 0, means.weight, 0)
        update = jax.tree.map(mix, means.update)
        return Aggregate(update, weight, means.n_present, dict(acc.rows))

    return base._replace(finalize=finalize)


def _shares(acc: GroupedAcc, groups: int, share: str) -> Array:
    """s_g `[M]`, read off any report of the group."""
    said = jnp.where(acc.rows[ROW_WEIGHT] > 0, acc.rows[share], 0)
    return jnp.maximum(jax.ops.segment_max(said, acc.rows["group"], groups), 0)
