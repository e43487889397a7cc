"""Tasks from a model and a number of outputs.

Every loss is the exact mean over the batch's mask. What padding rows hold cannot reach loss,
gradient or state: their non-finite inputs are replaced by 0 before the model sees them (0 x
inf would be NaN in a gradient), their outputs and targets before they are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Batch, Forward, Model, PyTree
from fedjax_sim.tasks import objectives
from fedjax_sim.tasks.networks import Network, as_network
from fedjax_sim.tasks.objectives import Objective


class TaskSpec(NamedTuple):
    """A task that still has to be told the shape of one input.

    Attributes:
      name: for messages and reports.
      make: `(x_shape, x_dtype) -> Task`.
    """

    name: str
    make: Callable[[tuple[int, ...], Any], Task]

    def bind(self, x_shape: Sequence[int], x_dtype: Any = None) -> Task:
        """Return the task for inputs of this shape.

        Args:
          x_shape: shape of one input, without the batch axis.
          x_dtype: dtype of the inputs; the task's own by default.

        Raises:
          InputError: when the model does not take such inputs or gives wrong outputs.
        """
        return self.make(tuple(int(n) for n in x_shape), x_dtype)


def classifier(
    model: Any,
    classes: int,
    *,
    example: Any = None,
    x_shape: Sequence[int] | None = None,
    x_dtype: Any = None,
    label_smoothing: float = 0.0,
    dtype: Any = jnp.float32,
) -> Task | TaskSpec:
    """Classification by softmax cross entropy; targets are integers `[B]`.

    Metrics: `loss` (without smoothing) and `accuracy`.

    Args:
      model: anything that `networks.as_network` takes, with outputs `[B, classes]`.
      classes: number of classes.
      example: one input without batch axis, in place of `x_shape` and `x_dtype`.
      x_shape: shape of one input, `(28, 28, 1)`.
      x_dtype: dtype of the inputs, when it is not `dtype`.
      label_smoothing: in [0, 1), for the training loss.
      dtype: of parameters and floating inputs; float64 needs `jax_enable_x64`.

    Returns:
      A `Task`, or a `TaskSpec` to be bound to a shape when none is given here.

    Raises:
      InputError: naming the field.
    """
    integer("classes", classes, least=2)
    number("label_smoothing", label_smoothing, least=0, below=1)
    objective = objectives.classes(classes, smoothing=label_smoothing)
    make = _maker(model, classes, objective, dtype, None)
    return _maybe_bind("classifier", make, example, x_shape, x_dtype)


def regressor(
    model: Any,
    outputs: int = 1,
    *,
    example: Any = None,
    x_shape: Sequence[int] | None = None,
    x_dtype: Any = None,
    dtype: Any = jnp.float32,
) -> Task | TaskSpec:
    """Regression: the squared error is averaged over outputs, then over the batch's mask.

    Targets are `[B, outputs]`, or `[B]` for a single output. Metrics: `loss`, `mse` (the
    same number) and `mae`.

    Args:
      model: anything that `networks.as_network` takes, with outputs `[B, outputs]`.
      outputs: numbers to predict per example.
      example: one input without batch axis, in place of `x_shape` and `x_dtype`.
      x_shape: shape of one input.
      x_dtype: dtype of the inputs, when it is not `dtype`.
      dtype: of parameters and floating inputs; float64 needs `jax_enable_x64`.

    Returns:
      A `Task`, or a `TaskSpec` to be bound to a shape when none is given here.

    Raises:
      InputError: naming the field.
    """
    integer("outputs", outputs, least=1)
    make = _maker(model, outputs, objectives.squares(outputs), dtype, None)
    return _maybe_bind("regressor", make, example, x_shape, x_dtype)


def next_char(
    model: Any,
    vocab: int,
    *,
    pad: int | None = None,
    example: Any = None,
    x_shape: Sequence[int] | None = None,
    x_dtype: Any = None,
    dtype: Any = jnp.float32,
) -> Task | TaskSpec:
    """Predict the next character at every position; inputs and targets are integers `[B, T]`.

    The loss is the mean cross entropy over all positions of the batch's mask. Metrics: `loss`
    and `accuracy`, counted by characters.

    Args:
      model: anything that `networks.as_network` takes, with outputs `[B, T, vocab]`.
      vocab: number of characters to choose from.
      pad: a target value whose positions do not count, or None.
      example: one input `[T]`, in place of `x_shape` and `x_dtype`.
      x_shape: `(T,)`.
      x_dtype: dtype of the inputs; int32 by default.
      dtype: of parameters; float64 needs `jax_enable_x64`.

    Returns:
      A `Task`, or a `TaskSpec` to be bound to a shape when none is given here.

    Raises:
      InputError: naming the field.
    """
    integer("vocab", vocab, least=2)
    objective = objectives.classes(vocab, ndim=2, pad=pad)
    make = _maker(model, vocab, objective, dtype, jnp.int32)
    return _maybe_bind("next_char", make, example, x_shape, x_dtype)


def supervised(
    network: Network, objective: Objective, x_shape: tuple[int, ...], x_dtype: Any, dtype: Any
) -> Task:
    """Assemble a task; the builders above check its input first.

    Args:
      network: the model.
      objective: how its outputs are scored.
      x_shape: shape of one input.
      x_dtype: dtype of the inputs.
      dtype: of parameters, state and floating inputs.

    Returns:
      The task.
    """

    def init(key: Array) -> Model:
        model = network.init(key, jnp.zeros((1, *x_shape), x_dtype))
        return jax.tree.map(lambda leaf: tree.strong(_cast(leaf, dtype)), model)

    showing = _showing(network, x_shape, x_dtype)

    def run(key: Array, model: Model, batch: Batch, apply: Any) -> tuple[Any, PyTree]:
        """A pass in training mode."""
        some = jnp.any(batch.mask)
        x = _cast(shield(batch.x, batch.mask), dtype)
        # An empty batch would give a masked batch norm the mean of nothing.
        seen = batch.mask | ~some
        outputs, state = apply(model, x, key=key, train=True, mask=seen)
        state = jax.tree.map(lambda new, old: new.astype(old.dtype), state, model.state)
        return outputs, tree.where(some, state, model.state)

    def score(outputs: Array, batch: Batch) -> Array:
        outputs, y = _scored(outputs, batch)
        return objectives.mean_where(objective.losses(outputs, y), counted(batch))

    def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        outputs, state = run(key, model, batch, network.apply)
        return score(outputs, batch), state

    def forward(key: Array, model: Model, batch: Batch) -> Forward:
        if showing is None:
            outputs, state = run(key, model, batch, network.apply)
            return Forward(outputs, None, state)
        (outputs, features), state = run(key, model, batch, showing)
        return Forward(outputs, features, state)

    def features(model: Model, x: Array) -> Array:
        assert showing is not None
        return showing(model, _cast(x, dtype), train=False)[0][1]

    def predict(model: Model, x: Array) -> Array:
        return network.apply(model, _cast(x, dtype), train=False)[0]

    def metrics(outputs: Array, batch: Batch) -> dict[str, tuple[Array, Array]]:
        outputs, y = _scored(outputs, batch)
        measures = objective.measures(outputs, y)
        return {n: objectives.sum_where(v, counted(batch)) for n, v in measures.items()}

    def counted(batch: Batch) -> Array:
        return objective.counted(batch.y, batch.mask)

    def exits(key: Array, model: Model, batch: Batch) -> tuple[Any, PyTree]:
        return run(key, model, batch, network.exits)

    shown = None if showing is None else features
    ends = None if network.exits is None else exits
    return Task(init, loss, predict, metrics, shown, forward, score, ends)


def _showing(network: Network, x_shape: tuple[int, ...], x_dtype: Any) -> Any:
    """The network's `inspect` where it shows a representation `[B, F]`, by tracing; else None.

    Raises:
      InputError: when what it shows has another shape.
    """
    inspect = network.inspect
    if inspect is None:
        return None

    def run() -> Any:
        x = jnp.zeros((1, *x_shape), x_dtype)
        return inspect(network.init(jax.random.key(0), x), x)[0][1]

    shown = jax.eval_shape(run)
    if shown is not None and (shown.ndim != 2 or shown.shape[0] != 1):
        wanted = f"on inputs of shape {x_shape} has shape {list(shown.shape)}, must be [B, F]"
        raise InputError("model.features", "representation", wanted)
    return None if shown is None else inspect


def shield(x: Array, mask: Array) -> Array:
    """Replace what is not finite in padding rows by 0; all else stays as it is.

    Args:
      x: `[B, ...]`.
      mask: bool `[B]`, False for padding rows.

    Returns:
      `[B, ...]`.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return jnp.where(objectives.expand(mask, x) | jnp.isfinite(x), x, 0)


def _scored(outputs: Array, batch: Batch) -> tuple[Array, Array]:
    """Outputs (at least float32) and targets, 0 in padding rows."""
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    zeros = [jnp.where(objectives.expand(batch.mask, a), a, 0) for a in (outputs, batch.y)]
    return zeros[0], zeros[1]


def _cast(x: Array, dtype: Any) -> Array:
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _maker(
    model: Any, outputs: int, objective: Objective, dtype: Any, default_x: Any
) -> Callable[[tuple[int, ...], Any], Task]:
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError("dtype", dtype, "must be a floating type")
    network = as_network(model, outputs)

    def make(x_shape: tuple[int, ...], x_dtype: Any) -> Task:
        if np.dtype(dtype).itemsize > jnp.result_type(float).itemsize:
            raise InputError("dtype", str(np.dtype(dtype)), "needs jax_enable_x64")
        x_type = x_dtype if x_dtype is not None else dtype if default_x is None else default_x
        _try(network, objective, str(model), x_shape, x_type)
        return supervised(network, objective, x_shape, x_type, dtype)

    return make


def _maybe_bind(
    name: str,
    make: Callable[[tuple[int, ...], Any], Task],
    example: Any,
    x_shape: Sequence[int] | None,
    x_dtype: Any,
) -> Task | TaskSpec:
    spec = TaskSpec(name, make)
    if example is not None:
        if x_shape is not None:
            raise InputError("x_shape", x_shape, "give either example or x_shape")
        return spec.bind(np.shape(example), x_dtype or np.asarray(example).dtype)
    return spec if x_shape is None else spec.bind(x_shape, x_dtype)


def _try(
    network: Network, objective: Objective, name: str, x_shape: tuple[int, ...], x_dtype: Any
) -> None:
    """Check shapes by tracing: no array is made, no backend started."""

    def run() -> Array:
        x = jnp.zeros((1, *x_shape), x_dtype)
        return network.apply(network.init(jax.random.key(0), x), x)[0]

    try:
        shape = jax.eval_shape(run).shape
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        text = str(error).strip().splitlines()[0]
        raise InputError("model", name, f"fails on inputs of shape {x_shape}: {text}") from error
    if remedy := objective.fits(shape):
        raise InputError("model", name, f"on inputs of shape {x_shape} {remedy}")
