"""How far clients pull apart, from sums that stream: numbers a round, no list of updates.

Below, `D_i` is client i's update (the params part, a decrease), `p_i = w_i / sum w` its share in
the weighted mean `m = sum p_i D_i`, and `u_i = D_i / |D_i|` its direction. Everything follows
from a few sums over clients and the two trees `sum w_i D_i` and `sum u_i`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core.types import Array, PyTree

CAP = 1e6
"""Most that a ratio is recorded as: beyond it, what it is measured against was not seen at all."""


class Sums(NamedTuple):
    """Sums over the reports of positive weight, float scalars.

    Attributes:
      heard: how many.
      moved: how many of them with an update that is not zero.
      weight: `sum w`.
      weight_squared: `sum w^2`.
      length: `sum |D|`.
      square: `sum w |D|^2`.
      square_weighted: `sum w^2 |D|^2`.
    """

    heard: Array
    moved: Array
    weight: Array
    weight_squared: Array
    length: Array
    square: Array
    square_weighted: Array


def no_sums() -> Sums:
    """Sums over nobody."""
    return Sums(*(jnp.zeros(()) for _ in Sums._fields))


def sums_of(weight: Array, squares: Array) -> Sums:
    """Sums over a few reports.

    Args:
      weight: `[n]`, 0 where absent.
      squares: `|D|^2`, `[n]`; those of absent reports do not matter.
    """
    heard = weight > 0
    squares = jnp.where(heard, squares, 0)
    return Sums(
        heard=jnp.sum(heard, dtype=squares.dtype),
        moved=jnp.sum(squares > 0, dtype=squares.dtype),
        weight=jnp.sum(weight),
        weight_squared=jnp.sum(weight * weight),
        length=jnp.sum(jnp.sqrt(squares)),
        square=jnp.sum(weight * squares),
        square_weighted=jnp.sum(weight * weight * squares),
    )


def is_due(round_index: Array, every: int) -> Array:
    """Whether a round is measured: the first, and each whose number (from 1) `every` divides."""
    return (round_index == 0) | ((round_index + 1) % every == 0)


def capped(part: Array, whole: Array) -> Array:
    """`part / whole` for `part >= 0`, at most `CAP`, also where `whole` <= 0; 0 / 0 is 0."""
    safe = jnp.maximum(whole, jnp.where(part > 0, part / CAP, 1))
    return part / safe


def statistics(sums: Sums, total_square: Array, direction_square: Array) -> dict[str, Array]:
    """The numbers of a round.

    With equal weights `drift_dissimilarity` is `n drift_diversity`, and always
    `1 + drift_dispersion_relative`: one quantity as three literatures know it.

    Args:
      sums: over the clients.
      total_square: `|sum w_i D_i|^2`.
      direction_square: `|sum u_i|^2`.

    Returns:
      - `drift_clients`: n, reports of positive weight;
      - `drift_client_norm`: mean `|D_i|`;
      - `drift_mean_norm`: `|m|`;
      - `drift_dispersion`: `sum p_i |D_i - m|^2`;
      - `drift_dispersion_relative`: that over `|m|^2`;
      - `drift_cosine`: mean cosine over pairs of clients, `(|sum u|^2 - n) / (n (n - 1))`,
        clients whose update is zero left out;
      - `drift_diversity`: gradient diversity, `sum |p_i D_i|^2 / |m|^2`; with equal weights
        `sum |D_i|^2 / |sum D_i|^2`: 1/n when all are alike, 1 when they are orthogonal;
      - `drift_dissimilarity`: `B^2 = sum p_i |D_i|^2 / |m|^2`;
      - `drift_variance`: the sample variance `s^2` of a client's update, all coordinates together;
      - `drift_shared_square`: `|E D|^2`, the squared length of what clients share: the mean of
        `<D_i, D_j>` over pairs of different clients, hence below 0 at times. At a cohort of
        `s^2 / |E D|^2` clients the mean update's noise is as long as that.

      Ratios stop at `CAP`. The dispersion is a difference of two squares in the updates'
      precision: relative to `|m|^2` it is good to about 1e-5 in float32.

    Reference: Yin et al., Gradient Diversity: a Key Ingredient for Scalable Distributed
      Learning, 2018, arXiv:1706.05699, definition 2.1.
    """
    weight = jnp.where(sums.weight > 0, sums.weight, 1)
    mean_square = total_square / weight**2
    second = sums.square / weight
    dispersion = jnp.maximum(second - mean_square, 0)
    apart = jnp.maximum(1 - sums.weight_squared / weight**2, 1 / CAP)
    own = sums.square_weighted / weight**2
    pairs = sums.moved * (sums.moved - 1)
    cosine = (direction_square - sums.moved) / jnp.maximum(pairs, 1)
    return {
        "drift_clients": sums.heard,
        "drift_client_norm": sums.length / jnp.maximum(sums.heard, 1),
        "drift_mean_norm": jnp.sqrt(mean_square),
        "drift_dispersion": dispersion,
        "drift_dispersion_relative": capped(dispersion, mean_square),
        "drift_cosine": jnp.clip(cosine, -1, 1),
        "drift_diversity": capped(own, mean_square),
        "drift_dissimilarity": capped(second, mean_square),
        "drift_variance": dispersion / apart,
        "drift_shared_square": (mean_square - own) / apart,
    }


def square_of(params: PyTree) -> Array:
    """Sum of squares of all entries, in at least float32."""
    return sum((jnp.vdot(x, x) for x in map(wide, jax.tree.leaves(params))), jnp.zeros(()))


def wide(x: Array) -> Array:
    """`x` in its own precision or float32, whichever is finer."""
    return x.astype(wide_type(x.dtype))


def wide_type(dtype: jnp.dtype) -> jnp.dtype:
    """`dtype` or float32, whichever is finer."""
    return jnp.promote_types(dtype, jnp.float32)
