"""The sizes of parts that clients of different levels need, each a model of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.clients import parts
from fedjax_sim.clients.parts import Window
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Model, PyTree
from fedjax_sim.data.batching import ClientData
from fedjax_sim.tasks.axes import Layout


class Tiers(NamedTuple):
    """The sizes of parts that levels need: fewer than levels where narrow widths run into one.

    Attributes:
      layout: of the whole model.
      counts: units of each width, tier by tier.
      ratios: of each tier.
      tier: the tier of each level.
    """

    layout: Layout
    counts: tuple[tuple[int, ...], ...]
    ratios: tuple[float, ...]
    tier: tuple[int, ...]

    def cut(self, model: Model, k: int, first: Window = 0) -> Model:
        """The part of tier k."""
        return parts.cut(self.layout, model, self.counts[k], first)

    def switch(self, level: Array, branch: Callable[[int, PyTree], PyTree], given: PyTree) -> Any:
        """`branch(k, given)` for the tier k of a level; only that one runs outside of vmap."""
        n = len(self.counts)
        if n == 1:
            return branch(0, given)
        each = [lambda given, k=k: branch(k, given) for k in range(n)]
        return jax.lax.switch(jnp.asarray(self.tier, jnp.int32)[level], each, given)

    def only(
        self, level: Array, step: Callable[[int, PyTree], PyTree], works: tuple[PyTree, ...]
    ) -> tuple[PyTree, ...]:
        """`step(k, works[k])` for the tier k of a level; the others stay where they are.

        By loops of no or one turn: a `switch` would copy the works that it hands through.
        """
        if len(works) == 1:
            return (step(0, works[0]),)
        mine = jnp.asarray(self.tier, jnp.int32)[level]
        return tuple(
            jax.lax.fori_loop(0, (mine == k).astype(jnp.int32), lambda _, w, k=k: step(k, w), work)
            for k, work in enumerate(works)
        )


def tiers_of(
    task: Task, lay: Layout, ratios: tuple[float, ...], model: Model, data: ClientData
) -> Tiers:
    """The tiers of a model.

    Raises:
      InputError: where the model does not take smaller arrays.
    """
    each = [(parts.kept(lay, r), r if lay.sizes else 1.0) for r in ratios]
    tiers = list(dict.fromkeys(each))
    counts, kept = zip(*tiers, strict=True)
    made = Tiers(lay, counts, kept, tuple(tiers.index(c) for c in each))
    x = jax.ShapeDtypeStruct((2, *data.x.shape[1:]), data.x.dtype)
    try:
        jax.eval_shape(lambda m, x: task.predict(made.cut(m, len(tiers) - 1), x), model, x)
    except Exception as error:
        remedy = 'needs a model that takes smaller arrays; form="masked" takes any '
        remedy += f"({type(error).__name__})"
        raise InputError("algorithm.form", "sliced", remedy) from error
    return made
