"""An algorithm as the laws see it, and the settings that the cases share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import optax

from fedjax_sim.engine.compose import Recipe

SIZES = (7, 1, 12, 20, 5, 3, 16, 9)
N, K = len(SIZES), 6
SILENT = 5  # where an algorithm takes a weighting, this client has weight zero
CHUNK = 8


def weights(size, steps, ctx):
    """By examples, but nothing for the silent client."""
    del steps
    return jnp.where(ctx.member.id == SILENT, 0, size)


@dataclasses.dataclass(frozen=True)
class Case:
    """One algorithm.

    Attributes:
      recipe: a builder without arguments.
      hyper: numbers to change; each a name in the recipe's `hyper`.
      weighted: whether `weights` is its weighting.
      rows: whether clients keep state.
      cohort: its K.
      shared: whether it has a global model.
      personal: whether clients use models of their own beside it.
    """

    recipe: Callable[[], Recipe]
    hyper: dict[str, float]
    weighted: bool = True
    rows: bool = False
    cohort: int = K
    shared: bool = True
    personal: bool = False


def sgd(lr):
    return optax.sgd(lr)


def heavy(lr, decay):
    return optax.sgd(lr, momentum=decay)


LOCAL = {"lr": 0.3, "epochs": 2, "batch_size": 4}
WEIGHTED = {"weighting": weights, **LOCAL}
# The shuffle is one piece of code for all and half of a program's compile time.
ORDERED = {"shuffle": False, **WEIGHTED}
