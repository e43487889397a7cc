"""Quadratic objectives, whose optimum and every gradient step are known in closed form."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Batch, Model, PyTree
from fedjax_sim.tasks.build import shield
from fedjax_sim.tasks.objectives import mean_where, sum_where


def quadratic(dim: int, start: Any = None, *, dtype: Any = None) -> Task:
    """Weighted squared distance to a target: `0.5 sum_j a_j (p_j - b_j)^2` per example.

    In a batch x is a `[B, dim]`, the diagonal curvature, and y is b `[B, dim]`, the target.
    The gradient of an example is `a (p - b)`, so a client whose examples share a and b does
    `p <- p - lr a (p - b)` in each step.

    Args:
      dim: number of parameters.
      start: where parameters start, `[dim]`; zeros by default.
      dtype: of the parameters; by default jax's default float, float64 under
        `jax_enable_x64`.

    Returns:
      A task with `params = {"x": [dim]}`; outputs are the parameters, `[B, dim]`; its metric
      is `loss`.

    Raises:
      InputError: when `dim` is below 1 or `start` has another shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> task, ones = quadratic(2), jnp.ones((1, 2))
      >>> batch = Batch(2 * ones, 3 * ones, jnp.ones(1, bool))
      >>> value, _ = task.loss(jax.random.key(0), task.init(jax.random.key(0)), batch)
      >>> float(value)
      18.0
    """
    integer("dim", dim, least=1)
    origin = np.zeros(dim) if start is None else np.asarray(start)
    if origin.shape != (dim,):
        raise InputError("start", origin.shape, f"must have shape ({dim},)")

    def init(key: Array) -> Model:
        del key
        return Model({"x": jnp.asarray(origin, jnp.result_type(float) if dtype is None else dtype)})

    def distances(params: Array, batch: Batch) -> Array:
        """Half the weighted squared distance of params `[dim]` or `[B, dim]`; `[B]`."""
        a, b = (shield(v, batch.mask).astype(params.dtype) for v in (batch.x, batch.y))
        params = params if params.ndim == 2 else params[None, :]
        return 0.5 * jnp.sum(a * jnp.square(params - b), axis=-1)

    def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        del key
        return mean_where(distances(model.params["x"], batch), batch.mask), model.state

    def predict(model: Model, x: Array) -> Array:
        return jnp.broadcast_to(model.params["x"][None, :], x.shape)

    def metrics(outputs: Array, batch: Batch) -> dict[str, tuple[Array, Array]]:
        return {"loss": sum_where(distances(outputs, batch), batch.mask)}

    return Task(init, loss, predict, metrics)
