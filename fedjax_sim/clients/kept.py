"""A client's own model in its row; until it first trains, that is whatever the server has."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.types import Array, Model


class Kept(NamedTuple):
    """A row that holds a model.

    Attributes:
      model: the client's own.
      rounds: int32, in how many rounds it trained.
    """

    model: Model
    rounds: Array


def unbegun(model: Model) -> Kept:
    """The row of a client that never trained; `model` only gives it its shape."""
    return Kept(model, jnp.zeros((), jnp.int32))


def own_model(row: Kept, shared: Model) -> Model:
    """The client's own model; `shared` as long as it has none."""
    return tree.where(row.rounds > 0, row.model, shared)


def keep(row: Kept, model: Model, steps: Array) -> Kept:
    """The row after a round; as it was where no step was done."""
    done = steps > 0
    now = tree.where(done, tree.as_before(model, row.model), row.model)
    return Kept(now, row.rounds + done)
