"""Matrix products that a CPU runs badly as they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.core.types import Array

_LARGE = 2**18  # entries: below, the matrix stays in the second-level cache
_FEW_ROWS = 64


def replacement(eqn: Any) -> Callable[[Array, Array], Array] | None:
    """`x [B, m] . W [n, m]^T` with few rows B and a large W, as `(W . x^T)^T`.

    It is the gradient of a dense layer's input. XLA:CPU packs W transposed, at strides that
    miss every cache; the other way round W is read in its own order. The barrier keeps the
    compiler from folding the two transpositions back.
    """
    (contract_x, contract_w), batch = eqn.params["dimension_numbers"]
    x, w = (v.aval for v in eqn.invars)
    plain = not batch[0] and x.ndim == w.ndim == 2 and x.dtype == w.dtype == jnp.float32
    if not plain or tuple(contract_x) != (1,) or tuple(contract_w) != (1,):
        return None
    if w.size < _LARGE or x.shape[0] > _FEW_ROWS or w.shape[0] < w.shape[1]:
        return None
    params = {n: eqn.params[n] for n in ("precision", "preferred_element_type")}

    def swapped(x: Array, w: Array) -> Array:
        turned = jax.lax.dot_general(w, x.T, (((1,), (0,)), ((), ())), **params)
        return jax.lax.optimization_barrier(turned).T

    return swapped
