"""How much a client counts in the average: by examples, alike, or something in between.

A weighting is a word (`examples`, `uniform`, `steps`, `groups`, `capped:100`, `power:0.5`) or a
function `(size, steps, ctx) -> weight`. The functions here make such functions; every recipe
takes either as `weighting=`, and an experiment file takes the words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, number
from fedjax_sim.core.types import Array, Context

WeightFunction = Callable[[Array, Array, Context], Array]

_FIELD = "algorithm.weighting"


def by_examples(size: Array, steps: Array, ctx: Context) -> Array:
    """`n_i`: every example counts the same (McMahan et al. 2016)."""
    del steps, ctx
    return jnp.asarray(size, float)


def uniform(size: Array, steps: Array, ctx: Context) -> Array:
    """`1`: every client counts the same."""
    del size, steps, ctx
    return jnp.ones(())


def by_steps(size: Array, steps: Array, ctx: Context) -> Array:
    """Local steps done: what a client worked."""
    del size, ctx
    return jnp.asarray(steps, float)


def capped(most: float) -> WeightFunction:
    """`min(n_i, most)`: no client counts more than one of `most` examples.

    Args:
      most: examples, above 0.

    Raises:
      InputError: when it is not.

    Example:
      >>> weight = capped(100)
      >>> float(weight(30, 3, None)), float(weight(5000, 500, None))
      (30.0, 100.0)
    """
    number(_FIELD, most, above=0)

    def weight(size: Array, steps: Array, ctx: Context) -> Array:
        del steps, ctx
        return jnp.minimum(jnp.asarray(size, float), most)

    return weight


def power(exponent: float) -> WeightFunction:
    """`n_i^a`: 1 is by examples, 0 uniform, 1/2 between them; below 0 the small count more.

    Args:
      exponent: a.

    Raises:
      InputError: when it is not finite.

    Example:
      >>> [float(power(a)(100, 10, None)) for a in (1, 0.5, 0)]
      [100.0, 10.0, 1.0]
    """
    number(_FIELD, exponent)

    def weight(size: Array, steps: Array, ctx: Context) -> Array:
        del steps, ctx
        # 0 examples have no part, whatever the exponent.
        n = jnp.asarray(size, float)
        return jnp.where(n > 0, jnp.maximum(n, 1) ** exponent, 0)

    return weight


def by_group(groups: Any, sizes: Any = None) -> WeightFunction:
    """Groups count the same, whatever the number of their clients and examples.

    `w_i = n_i / sum_{j in group of i} n_j` over the population, so that each group's weights sum
    to 1; without sizes 1 over the group's number of clients. In a round that draws a part of the
    population this holds on average; `aggregation.balanced` makes it hold in every round, at M
    updates of memory.

    Args:
      groups: int `[N]`, each client's group.
      sizes: int `[N]`, each client's number of examples, or None: clients of a group alike.

    Raises:
      InputError: no whole numbers, or sizes of another length.

    Example:
      >>> from fedjax_sim.core.types import Context, Member
      >>> weight = by_group([0, 0, 1], sizes=[10, 30, 5])
      >>> who = [Context(None, None, Member(i, True, 0, 1.0)) for i in range(3)]
      >>> [float(weight(None, None, ctx)) for ctx in who]
      [0.25, 0.75, 1.0]
    """
    ids = np.asarray(groups)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
        raise InputError("groups", groups, "must be one whole number for each client")
    share = np.ones(len(ids)) if sizes is None else np.asarray(sizes, float)
    if share.shape != ids.shape:
        raise InputError("sizes", share.shape, f"must be one for each of {len(ids)} clients")
    _, ids = np.unique(ids, return_inverse=True)
    table = share / np.maximum(np.bincount(ids, share), np.finfo(float).tiny)[ids]

    def weight(size: Array, steps: Array, ctx: Context) -> Array:
        del size, steps
        # A client beyond the table gets NaN, which ends the run, not another's weight.
        return jnp.asarray(table, float).at[ctx.member.id].get(mode="fill", fill_value=jnp.nan)

    return weight


def _groups(size: Array, steps: Array, ctx: Context) -> Array:
    del size, steps, ctx
    remedy = "needs to know the groups: give clients.weights.by_group(groups, sizes)"
    raise InputError(_FIELD, "groups", remedy)


WORDS: dict[str, WeightFunction] = {
    "examples": by_examples,
    "uniform": uniform,
    "steps": by_steps,
    "groups": _groups,  # experiment files, which have the data, put `by_group` in its place
}
_FORMS: dict[str, Callable[[float], WeightFunction]] = {"capped": capped, "power": power}


def named(text: str) -> WeightFunction:
    """The weighting that a word says.

    Args:
      text: `examples`, `uniform`, `steps`, `capped:N` (N examples) or `power:A`; in experiment
        files also `groups`, `by_group` of the groups planted in the data.

    Raises:
      InputError: another word, or a number that does not fit.
    """
    name, colon, said = str(text).partition(":")
    if not colon and name in WORDS:
        return WORDS[name]
    try:
        return _FORMS[name](float(said))
    except (KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise InputError(_FIELD, text, error.remedy) from None
        remedy = "must be examples, uniform, steps, groups, capped:N, power:A (as power:0.5)"
        raise InputError(_FIELD, text, f"{remedy}, or a function") from None
