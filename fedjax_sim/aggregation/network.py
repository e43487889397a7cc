"""Sorting a few rows entry by entry, by a network of comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from fedjax_sim.core.types import Array


def comparators(k: int) -> list[tuple[int, int]]:
    """Pairs `(i, j)`, i < j, that sort k values when each puts the lesser of two at i.

    Cost: about `k log2(k)^2 / 4` pairs: 31 for 10, 543 for 64.
    Reference: Batcher, Sorting Networks and Their Applications, 1968; as Knuth, The Art of
      Computer Programming 3, algorithm 5.2.2M, for any k.
    """
    pairs: list[tuple[int, int]] = []
    top = 1 << max(k - 1, 0).bit_length() - 1 if k > 1 else 0
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while d > 0:
            pairs += [(i, i + d) for i in range(k - d) if i & p == r]
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return pairs


def in_order(rows: Sequence[Array]) -> list[Array]:
    """The rows with every entry sorted over them, the least first; no entry may be NaN.

    Elementwise, so that it is one pass over all rows, where a sort along a short axis is a call
    an entry.
    """
    found = list(rows)
    for i, j in comparators(len(found)):
        low, high = jnp.minimum(found[i], found[j]), jnp.maximum(found[i], found[j])
        found[i], found[j] = low, high
    return found
