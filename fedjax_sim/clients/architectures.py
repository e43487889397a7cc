"""Clients whose model is their own, of an architecture of their own, and never leaves them."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.types import Array, Model
from fedjax_sim.tasks import mixed


class OwnModel(NamedTuple):
    """A client's row.

    Attributes:
      model: its model; of no meaning before it first took part.
      rounds: in how many it took part, int32.
    """

    model: Model
    rounds: Array


def own_row(key: Array, model: Model) -> OwnModel:
    """The row before the first visit; what matters of `model` is its shape."""
    del key
    return OwnModel(mixed.own(model, jnp.int32(0)), jnp.zeros((), jnp.int32))


def own_model(row: OwnModel, begin: Model) -> Model:
    """The client's model: the row's, or `begin` where it never took part."""
    return tree.where(row.rounds > 0, row.model, begin)


def next_row(row: OwnModel, model: Model) -> OwnModel:
    """The row after one more round."""
    return OwnModel(model, row.rounds + 1)
