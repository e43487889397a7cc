"""Tasks from plain loss functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from fedjax_sim.core.checks import choice
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Batch, Model, PyTree
from fedjax_sim.tasks.build import shield
from fedjax_sim.tasks.objectives import mean_where


def from_loss(
    init: Callable[[Array], Any],
    loss: Callable[..., Any],
    *,
    predict: Callable[[PyTree, Array], Array] | None = None,
    metrics: Callable[[Array, Batch], dict[str, tuple[Array, Array]]] | None = None,
    features: Callable[[PyTree, Array], Array] | None = None,
    form: str = "examples",
) -> Task:
    """Make a task of plain functions.

    Args:
      init: `(key) -> params`, or `-> Model`.
      loss: `(params, x [B, ...], y [B, ...]) -> losses [B]`, averaged over the mask here; or,
        with `form="full"`, `(key, Model, Batch) -> (mean over the mask, new state)`, whose
        author answers for masks.
      predict: `(params, x) -> outputs [B, ...]`, or `(Model, x)` with `form="full"`; without
        it outputs are empty, `[B, 0]`.
      metrics: `(outputs, Batch) -> {name: (sum, count)}`; none by default.
      features: `(params, x) -> representation [B, F]`, or `(Model, x)` with `form="full"`.
      form: `"examples"` or `"full"`.

    Returns:
      The task.

    Raises:
      InputError: for another `form`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_sim.core.types import Batch
      >>> task = from_loss(lambda key: jnp.zeros(2), lambda w, x, y: (x @ w - y) ** 2)
      >>> batch = Batch(jnp.ones((3, 2)), jnp.array([1.0, 3.0, 9.0]), jnp.array([1, 1, 0]) > 0)
      >>> value, _ = task.loss(jax.random.key(0), task.init(jax.random.key(0)), batch)
      >>> float(value)
      5.0
    """
    choice("form", form, ("examples", "full"))
    full = form == "full"

    def init_model(key: Array) -> Model:
        made = init(key)
        return made if isinstance(made, Model) else Model(made, ())

    def mean_loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        del key
        x, y = shield(batch.x, batch.mask), shield(batch.y, batch.mask)
        return mean_where(loss(model.params, x, y), batch.mask), model.state

    def outputs(model: Model, x: Array) -> Array:
        if predict is None:
            return jnp.zeros((x.shape[0], 0))
        return predict(model if full else model.params, x)

    def represent(model: Model, x: Array) -> Array:
        assert features is not None
        return features(model if full else model.params, x)

    def measure(outputs: Array, batch: Batch) -> dict[str, tuple[Array, Array]]:
        return {} if metrics is None else metrics(outputs, batch)

    mean = loss if full else mean_loss
    return Task(init_model, mean, outputs, measure, features and represent)
