"""Learning from outputs on a public set: how far off a model is, and what a report then carries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Model, PyTree

MATCHES = ("absolute", "squared", "divergence")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Speaker:
    """The task whose model a report is, for a server that computes with it; it has no leaves."""

    task: Task = dataclasses.field(metadata={"static": True})


class Taught(NamedTuple):
    """An update that tells what its model thinks of the public set.

    Attributes:
      model: the decrease.
      scores: outputs `[Q, C]` divided by the report's weight: a weighted sum is a plain one.
      speaker: the task.
    """

    model: Model
    scores: Array
    speaker: Speaker


def divergence(scores: Array, wanted: Array, match: str) -> Array:
    """How far scores `[B, C]` are from those wanted, the mean over the batch.

    `absolute` and `squared` differences are means over the classes too; `divergence` is
    `KL(softmax(wanted), softmax(scores))`.
    """
    if match == "absolute":
        return jnp.mean(jnp.abs(scores - wanted))
    if match == "squared":
        return jnp.mean(jnp.square(scores - wanted))
    log_p, log_q = (jax.nn.log_softmax(v, axis=-1) for v in (wanted, scores))
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


def towards(task: Task, match: str) -> Callable[[Model, Array, Array], tuple[Array, PyTree]]:
    """How far a model is from wanted scores, and the gradient of its params.

    Args:
      task: whose `predict` gives scores: evaluation mode, statistics stay.
      match: see `divergence`.

    Returns:
      `(Model, x [B, ...], wanted [B, C]) -> (divergence, gradient)`.
    """

    def both(model: Model, x: Array, wanted: Array) -> tuple[Array, PyTree]:
        def far(params: PyTree) -> Array:
            scores = task.predict(Model(params, model.state), x)
            return divergence(scores, wanted.astype(scores.dtype), match)

        return jax.value_and_grad(far)(model.params)

    return both
