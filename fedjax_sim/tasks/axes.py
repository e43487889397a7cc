"""Which axes of a model's parameters are widths: axes of hidden units that may be cut.

Read off the program of `Task.predict`, not off names. Two axes belong together where the
program meets them elementwise or in a product; an axis that meets the inputs, the outputs, or
an operation that mixes its entries in any way but a product with a kernel is not a width.
Leaving out the units of a width, everywhere at once, then gives the same function as setting
their parameters to 0, whatever the activation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core.types import Model, PyTree
from fedjax_sim.tasks.axis_groups import Groups, Label
from fedjax_sim.tasks.axis_rules import Reader

_BATCH = 3


class Axis(NamedTuple):
    """One axis of a leaf, as a product of factors, the slowest first.

    Attributes:
      sizes: of the factors; `(49, 64)` for the flattened pixels of 64 channels.
      widths: for each factor which width it is, or -1.
      output: whether the axis counts the model's outputs (its last axis).
    """

    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    output: bool


class Layout(NamedTuple):
    """The widths of a model.

    Attributes:
      axes: for each leaf of the `Model`, in the order of `jax.tree.leaves`, its axes.
      sizes: number of units of each width.
      scaled: for each leaf whether it makes hidden units: a kernel whose outputs are a width,
        or the bias added to what it gives.
    """

    axes: tuple[tuple[Axis, ...], ...]
    sizes: tuple[int, ...]
    scaled: tuple[bool, ...]


def layout(
    predict: Callable[[Model, Any], Any], model: Model, x_shape: Sequence[int], x_dtype: Any
) -> Layout:
    """The widths of a model.

    Args:
      predict: `Task.predict`.
      model: arrays, or their shapes.
      x_shape: of one input, without the batch axis.
      x_dtype: of the inputs.

    Returns:
      The layout; a model whose program is not understood has fewer widths, or none.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_sim.tasks import build, models
      >>> task = build.classifier(models.mlp(20), 3, x_shape=(4,))
      >>> shapes = jax.eval_shape(task.init, jax.random.key(0))
      >>> layout(task.predict, shapes, (4,), jnp.float32).sizes
      (20,)
    """
    leaves, structure = jax.tree.flatten(model)
    shapes = tuple((tuple(leaf.shape), jnp.dtype(leaf.dtype)) for leaf in leaves)
    return _read(predict, structure, shapes, tuple(x_shape), jnp.dtype(x_dtype))


@functools.lru_cache(maxsize=64)
def _read(
    predict: Callable[..., Any],
    structure: Any,
    model: tuple[tuple[tuple[int, ...], Any], ...],
    x_shape: tuple[int, ...],
    x_dtype: Any,
) -> Layout:
    shapes = [jax.ShapeDtypeStruct(*leaf) for leaf in model]
    x = jax.ShapeDtypeStruct((_BATCH, *x_shape), x_dtype)

    def flat(x: PyTree, *leaves: PyTree) -> Any:
        return predict(jax.tree.unflatten(structure, leaves), x)

    closed = jax.make_jaxpr(flat)(x, *shapes)
    groups = Groups()
    reader = Reader(groups)
    labels = [groups.fresh(leaf.shape) for leaf in shapes]
    given = groups.fresh(x.shape)
    groups.fix_all(given)
    out = reader.read(closed, [given, *labels], [None, *range(len(shapes))])
    ends = [label[-1] for label in out if label]
    for label in out:
        groups.fix_all(label)
    return _told(groups, reader, labels, ends)


def _told(
    groups: Groups, reader: Reader, labels: list[tuple[Label, ...]], ends: list[Label]
) -> Layout:
    numbers: dict[int, int] = {}
    sizes: list[int] = []
    outputs = {tuple(groups.factors(end)) for end in ends}

    def number(at: int, size: int) -> int:
        if groups.is_fixed(at):
            return -1
        if at not in numbers:
            numbers[at] = len(sizes)
            sizes.append(size)
        return numbers[at]

    def axis(label: Label) -> Axis:
        factors = tuple(groups.factors(label))
        widths = tuple(number(at, size) for at, size in factors)
        return Axis(tuple(size for _, size in factors), widths, factors in outputs)

    axes = tuple(tuple(axis(label) for label in leaf) for leaf in labels)
    made = [False] * len(labels)
    for leaf, label in reader.made:
        hidden = any(not groups.is_fixed(at) for one in label for at, _ in groups.factors(one))
        made[leaf] = made[leaf] or hidden
    return Layout(axes, tuple(sizes), tuple(made))
