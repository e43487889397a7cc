"""Drift by group: do clients of one group agree, and do the groups?"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Array, PyTree
from fedjax_sim.diagnostics.drift_statistics import capped
from fedjax_sim.engine.plan import refuse_oversize

MOST_GROUPS = 256
"""Every group's mean is compared with every other's: G^2 P products in a round that is due."""
PER_GROUP = "drift_per_group"
GROUPS_MEASURED = f"{PER_GROUP}_measured"


@dataclasses.dataclass(frozen=True)
class Grouping:
    """Who belongs where.

    Attributes:
      ids: int32 `[N]`, each client's group.
      count: G.
    """

    ids: np.ndarray
    count: int

    def of(self, clients: Array) -> Array:
        """Groups `[n]` of clients `[n]`."""
        return jnp.asarray(self.ids)[clients]


class GroupSums(NamedTuple):
    """Sums over a group's reports of positive weight, each `[G]`.

    Attributes:
      moved: clients with an update that is not zero.
      weight: `sum w`.
      square: `sum w |D|^2`.
    """

    moved: Array
    weight: Array
    square: Array


def grouping(groups: Any) -> Grouping:
    """`Grouping` from int `[N]`.

    Raises:
      InputError: no whole numbers from 0, or more than `MOST_GROUPS` groups.
    """
    ids = np.asarray(groups)
    if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu" or ids.min() < 0:
        raise InputError("groups", groups, "must be whole numbers from 0, one a client, [N]")
    count = int(ids.max()) + 1
    if count > MOST_GROUPS:
        remedy = (
            f"the drift panel takes at most {MOST_GROUPS} groups; drift_every = 0 leaves it out"
        )
        raise InputError("groups", f"{count} groups", remedy)
    return Grouping(ids.astype(np.int32), count)


def no_group_sums(of: Grouping) -> GroupSums:
    """Sums over nobody."""
    return GroupSums(*(jnp.zeros(of.count) for _ in GroupSums._fields))


def add_to_groups(sums: GroupSums, group: Array, weight: Array, squares: Array) -> GroupSums:
    """Sums with n more reports; groups, weights and `|D|^2` are `[n]`."""
    squares = jnp.where(weight > 0, squares, 0)
    return GroupSums(
        sums.moved.at[group].add((squares > 0).astype(sums.moved.dtype)),
        sums.weight.at[group].add(weight),
        sums.square.at[group].add(weight * squares),
    )


def bytes_of_groups(of: Grouping, params_bytes: int) -> int:
    """What the groups' sums hold: 2 G P floats.

    Raises:
      InputError: more than the device has.
    """
    held = 2 * of.count * params_bytes
    remedy = "give fewer groups, or leave the panel out by drift_every = 0"
    refuse_oversize("groups", f"{of.count} groups in the drift panel", held, 1, remedy)
    return held


def group_statistics(
    sums: GroupSums, total: PyTree, directions: PyTree
) -> tuple[dict[str, Array], tuple[Array, Array]]:
    """The groups' numbers of a round.

    With `m_g` the weighted mean update of group g and `p_g` its share of the weight:

    - `drift_per_group_dispersion`: within groups, `sum_i p_i |D_i - m_g(i)|^2`;
    - `drift_per_group_share`: the share of the whole dispersion that lies between groups,
      `sum_g p_g |m_g - m|^2` over it: 0 where groups say nothing, 1 where they say all;
    - `drift_per_group_cosine`: mean cosine over pairs of clients of the same group;
    - `drift_per_group_between_mean`, `drift_per_group_between_min`: cosine between the groups'
      mean updates, over pairs of groups;
    - `drift_per_group_measured`: at least two groups were heard, and one of them twice.

    Args:
      sums: `[G]`.
      total: `sum w_i D_i` by group, `[G, ...]`.
      directions: `sum u_i` by group, `[G, ...]`.

    Returns:
      The scalars, and `(|sum w_i D_i|^2, |sum u_i|^2)` over all clients.
    """
    totals, towards = _gram(total), _gram(directions)
    lengths = jnp.diagonal(totals)
    weight = jnp.where(sums.weight > 0, sums.weight, 1)
    everyone = jnp.sum(sums.weight)
    everyone = jnp.where(everyone > 0, everyone, 1)
    inside = jnp.sum(sums.square - lengths / weight) / everyone
    between = jnp.sum(lengths / weight) / everyone - jnp.sum(totals) / everyone**2
    inside, between = jnp.maximum(inside, 0), jnp.maximum(between, 0)
    pairs = jnp.sum(sums.moved * (sums.moved - 1))
    same = jnp.sum(jnp.diagonal(towards) - sums.moved) / jnp.maximum(pairs, 1)
    cosines, known = _cosines(totals)
    count = jnp.sum(known)
    mean = jnp.sum(jnp.where(known, cosines, 0)) / jnp.maximum(count, 1)
    values = {
        f"{PER_GROUP}_dispersion": inside,
        f"{PER_GROUP}_share": capped(between, between + inside),
        f"{PER_GROUP}_cosine": jnp.clip(same, -1, 1),
        f"{PER_GROUP}_between_mean": mean,
        f"{PER_GROUP}_between_min": jnp.min(jnp.where(known, cosines, 1)),
        GROUPS_MEASURED: (count > 0) & (pairs > 0),
    }
    return values, (jnp.sum(totals), jnp.sum(towards))


def _gram(of_groups: PyTree) -> Array:
    """Inner products of the groups' trees, `[G, G]`."""
    rows = [x.reshape(x.shape[0], -1) for x in jax.tree.leaves(of_groups)]
    products = [jnp.matmul(x, x.T, precision="highest") for x in rows]
    return sum(products[1:], start=products[0])


def _cosines(gram: Array) -> tuple[Array, Array]:
    """Cosines `[G, G]`, and which of them are of two different groups, each pair once."""
    lengths = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0))
    product = lengths[:, None] * lengths[None, :]
    pairs = jnp.triu(jnp.ones(gram.shape, bool), k=1)
    safe = jnp.where(product > 0, product, 1)
    return jnp.clip(gram / safe, -1, 1), pairs & (product > 0)
