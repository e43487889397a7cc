"""Optimizers that only scale: plain SGD, whose steps say what the gradients were."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend import core as jex

from fedjax_sim.core.programs import called
from fedjax_sim.core.types import PyTree

_SCALES = {"mul", "div", "neg", "convert_element_type", "copy", "broadcast_in_dim", "reshape"}


def scales(optimizer: optax.GradientTransformation, params: PyTree) -> PyTree | None:
    """`a`, shaped like `params`, where an update is `-a g` for every gradient g; None elsewhere.

    Read off the program of the update: without a state, each entry of a gradient multiplied by
    what does not depend on gradients. Momentum, clipping, decay of weights and rates that follow
    the step are not so.

    Args:
      optimizer: any optax transformation.
      params: arrays, or their shapes.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> print(scales(optax.sgd(0.5), jnp.ones(2)), scales(optax.adam(0.5), jnp.ones(2)))
      [0.5 0.5] None
    """
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)

    def update(grads: PyTree) -> PyTree:
        state = optimizer.init(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))
        if jax.tree.leaves(state):
            raise ValueError("has a state")
        return optimizer.update(grads, state)[0]

    try:
        closed, made = jax.make_jaxpr(update, return_shape=True)(shapes)
    except Exception:  # whatever it needs more than gradients, it does not only scale them
        return None
    leaves = range(len(closed.jaxpr.invars))
    alike = jax.tree.structure(made) == jax.tree.structure(shapes)
    if not alike or _followed(closed.jaxpr, list(leaves)) != list(leaves):
        return None
    ones = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes)
    return jax.tree.map(jnp.negative, update(ones))


def rates_of(optimizer: optax.GradientTransformation, params: PyTree) -> PyTree | None:
    """`scales` where steps tell gradients: None also for a model of few digits.

    Args:
      optimizer: any optax transformation.
      params: arrays, or their shapes.
    """
    few = any(jnp.finfo(p.dtype).bits < 32 for p in jax.tree.leaves(params))
    return None if few else scales(optimizer, params)


def _followed(jaxpr: Any, given: list[int | None]) -> list[int | None] | None:
    """For each output which input it is a multiple of; None where one is anything else."""
    of: dict[Any, int | None] = dict(zip(jaxpr.invars, given, strict=True))

    def source(atom: Any) -> int | None:
        return None if isinstance(atom, jex.Literal) else of.get(atom)

    for eqn in jaxpr.eqns:
        found = [source(v) for v in eqn.invars]
        known = [s for s in found if s is not None]
        inner = called(eqn)
        if not known:
            continue
        if inner is not None:
            made = _followed(getattr(inner, "jaxpr", inner), found)
        else:
            made = [known[0]] if _scaled(eqn, found, known) else None
        if made is None:
            return None
        of.update(zip(eqn.outvars, made, strict=True))
    return [source(v) for v in jaxpr.outvars]


def _scaled(eqn: Any, found: list[int | None], known: list[int]) -> bool:
    """Whether the entries of one operand, in their places, are multiplied by something else."""
    same = eqn.outvars[0].aval.shape == eqn.invars[found.index(known[0])].aval.shape
    upper = eqn.primitive.name != "div" or found[0] is not None
    return eqn.primitive.name in _SCALES and len(known) == 1 and same and upper
