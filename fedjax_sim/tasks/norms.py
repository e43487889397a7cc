"""Normalisation as plain functions, and where a model of any make keeps it.

Batch norm has statistics, which live in `Model.state`; group and layer norm have none, and so
nothing that depends on which client an example came from.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core.checks import InputError, choice, integer, number
from fedjax_sim.core.parts import entry_name
from fedjax_sim.core.types import Array, Model, PyTree

NORMS = ("none", "batch", "group", "layer")
"""`batch`: over the batch (and positions), by channel. `group`: inside an example, by group of
channels. `layer`: the same with one group."""

_EPS = 1e-5
_GROUPS, _MOMENTUM = 8, 0.9


class Frozen(NamedTuple):
    """A model state that training reads and leaves alone: handed to `Task.loss` in its place.

    The loss is then that of evaluation mode (dropout rests too), and its gradient with it.
    """

    state: PyTree


class Measured(NamedTuple):
    """A model state to be measured: handed to `Task.loss` in its place.

    The loss is that of evaluation mode; what comes back are the mean and the variance that
    each batch norm met in this batch, where running statistics stand otherwise.
    """

    state: PyTree


class Norm(NamedTuple):
    """How a built-in model normalises after each hidden layer.

    Attributes:
      kind: one of `NORMS`.
      groups: of channels, for `group`.
      momentum: share of the old that running statistics keep in a step, for `batch`.
    """

    kind: str
    groups: int
    momentum: float

    def init(self, widths: dict[str, int], dtype: jnp.dtype) -> tuple[PyTree, PyTree]:
        """`(params, state)` of the layers named by `widths`: scale 1, bias 0, mean 0, var 1."""
        if self.kind == "none":
            return {}, {}
        ones = {n: jnp.ones((w,), dtype) for n, w in widths.items()}
        params = {n: {"scale": one, "bias": jnp.zeros_like(one)} for n, one in ones.items()}
        if self.kind != "batch":
            return params, {}
        return params, {n: {"mean": jnp.zeros_like(one), "var": one} for n, one in ones.items()}


def norm_of(kind: str, groups: int | None, momentum: float | None, widths: Any) -> Norm:
    """A checked `Norm`.

    Args:
      kind: one of `NORMS`.
      groups: channels are cut into so many; None is 8.
      momentum: see `Norm`; None is 0.9.
      widths: channels of every layer that is normalised.

    Raises:
      InputError: an unknown kind, a number that the kind does not take, widths that the
        groups do not divide.
    """
    choice("norm", kind, NORMS)
    if groups is not None and kind != "group":
        raise InputError("norm_groups", groups, 'is taken by norm = "group" alone')
    if momentum is not None and kind != "batch":
        raise InputError("norm_momentum", momentum, 'is taken by norm = "batch" alone')
    groups = _GROUPS if groups is None else integer("norm_groups", groups, least=1)
    momentum = _MOMENTUM if momentum is None else momentum
    number("norm_momentum", momentum, least=0, below=1)
    for width in widths if kind == "group" else ():
        if width % groups:
            remedy = f"must divide the {width} channels of every layer that is normalised"
            raise InputError("norm_groups", groups, remedy)
    return Norm(kind, groups, momentum)


def moments(x: Array, mask: Array | None) -> tuple[Array, Array]:
    """Mean and (biased) variance of each channel over the rows of the mask and all positions.

    Args:
      x: `[B, ..., C]`.
      mask: bool `[B]`, or None for all rows.

    Returns:
      `[C]` each; where no row counts, 0.
    """
    axes = tuple(range(x.ndim - 1))
    lift = (1,) * (x.ndim - 1) + x.shape[-1:]
    if mask is None:
        mean = jnp.mean(x, axes)
        return mean, jnp.mean(jnp.square(x - mean.reshape(lift)), axes)
    counted = mask.reshape(mask.shape + (1,) * (x.ndim - 1))
    rows = jnp.maximum(jnp.sum(mask), 1).astype(x.dtype) * math.prod(x.shape[1:-1])
    mean = jnp.sum(jnp.where(counted, x, 0), axes) / rows
    off = jnp.where(counted, x - mean.reshape(lift), 0)
    return mean, jnp.sum(jnp.square(off), axes) / rows


def batch_norm(layer: dict[str, Array], mean: Array, var: Array, x: Array) -> Array:
    """`scale (x - mean) / sqrt(var + 1e-5) + bias`, channel by channel.

    Args:
      layer: `{"scale": [C], "bias": [C]}`.
      mean: `[C]`, of the batch in training and running in evaluation.
      var: `[C]`.
      x: `[B, ..., C]`.

    Reference: Ioffe, Szegedy, Batch Normalization: Accelerating Deep Network Training by
      Reducing Internal Covariate Shift, 2015, arXiv:1502.03167, algorithm 1.
    """
    lift = (1,) * (x.ndim - 1) + x.shape[-1:]
    factor = layer["scale"] * jax.lax.rsqrt(var + jnp.asarray(_EPS, var.dtype))
    return (x - mean.reshape(lift)) * factor.reshape(lift) + layer["bias"].reshape(lift)


def group_norm(layer: dict[str, Array], x: Array, groups: int) -> Array:
    """Normalise each example over each group of channels and all positions.

    Args:
      layer: `{"scale": [C], "bias": [C]}`.
      x: `[B, ..., C]`.
      groups: divides C; 1 is layer norm.

    Reference: Wu, He, Group Normalization, 2018, arXiv:1803.08494, section 3.
    """
    parts = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean = jnp.mean(parts, (1, 3), keepdims=True)
    off = parts - mean
    var = jnp.mean(jnp.square(off), (1, 3), keepdims=True)
    z = (off * jax.lax.rsqrt(var + jnp.asarray(_EPS, var.dtype))).reshape(x.shape)
    lift = (1,) * (x.ndim - 1) + x.shape[-1:]
    return z * layer["scale"].reshape(lift) + layer["bias"].reshape(lift)


class NormLeaves(NamedTuple):
    """Where a model keeps its batch norms: positions among `jax.tree.leaves(Model)`.

    Attributes:
      affine: scales and biases.
      means: running means, layer by layer.
      variances: running variances, in the order of `means`.
    """

    affine: tuple[int, ...]
    means: tuple[int, ...]
    variances: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        """Affine and statistics."""
        return self.affine + self.means + self.variances


def find(model: Model) -> NormLeaves:
    """The batch norms of a model, by its structure.

    A part of `Model.state` that holds `mean` and `var` is a batch norm; what `Model.params`
    holds under the same path are its scale and bias. That finds the layers of the built-in
    models, of flax linen (whose paths begin with `batch_stats`) and of flax nnx, whatever
    they are called.

    Args:
      model: arrays, or their shapes.
    """
    named: dict[tuple[str, ...], dict[str, int]] = {}
    params: list[tuple[tuple[str, ...], int]] = []
    for at, (path, _) in enumerate(jax.tree_util.tree_flatten_with_path(model)[0]):
        names = tuple(entry_name(part) for part in path)
        if names[0] == "params":
            params.append((names[1:-1], at))
        else:
            inner = names[2:] if names[1:2] == ("batch_stats",) else names[1:]
            named.setdefault(inner[:-1], {})[inner[-1] if inner else ""] = at
    norms = {at: leaves for at, leaves in named.items() if {"mean", "var"} <= leaves.keys()}
    return NormLeaves(
        affine=tuple(at for where, at in params if where in norms),
        means=tuple(leaves["mean"] for leaves in norms.values()),
        variances=tuple(leaves["var"] for leaves in norms.values()),
    )


def pick(model: Model, at: tuple[int, ...]) -> tuple[Array, ...]:
    """The leaves at these positions."""
    leaves = jax.tree.leaves(model)
    return tuple(leaves[i] for i in at)


def model_in(carrier: Any, field: str) -> Model:
    """The model that a message is, or that it has as `model`.

    Raises:
      InputError: naming `field`, when there is none.
    """
    found = carrier if isinstance(carrier, Model) else getattr(carrier, "model", None)
    if not isinstance(found, Model):
        remedy = "is for algorithms that send a model to their clients"
        raise InputError(field, type(carrier).__name__, remedy)
    return found


def put(model: Model, at: tuple[int, ...], values: tuple[Array, ...]) -> Model:
    """The model with `values` at these positions."""
    leaves, structure = jax.tree.flatten(model)
    for i, value in zip(at, values, strict=True):
        leaves[i] = value
    return jax.tree.unflatten(structure, leaves)


class Calibration(NamedTuple):
    """Rounds that train nothing and measure the batch norms of the shared weights.

    One round settles one more layer, since what a layer meets depends on those before it.

    Attributes:
      rounds: R; the last rounds calibrate.
      every: the last rounds of each block of so many calibrate too; 0 for none.
    """

    rounds: int
    every: int = 0

    def due(self, round_index: Array, passes: int | Array) -> Array:
        """Whether a round (from 0) calibrates; `passes` is the number of batch norms."""
        left = self.rounds - round_index
        last = (left > 0) & (left <= passes)
        if not self.every:
            return last
        return last | (round_index % self.every >= self.every - passes)

    def check(self, passes: int) -> None:
        """Refuse a schedule that leaves no round to train in.

        Raises:
          InputError: naming the field.
        """
        needs = f"{passes} rounds calibrate, one for each batch norm: must be greater"
        if self.rounds <= passes:
            raise InputError("run.rounds", self.rounds, needs)
        if self.every and self.every <= passes:
            raise InputError("client.batch_norm.every", self.every, needs)


def settled(model: Model, decrease: Model, at: NormLeaves) -> Model:
    """The model with pooled statistics in place of its running ones.

    Clients report how far their examples' mean lies below the running mean r, and how far
    the mean square about r lies below the running variance; both are linear, so that the
    weighted mean of reports is that of the pooled examples. Then
    `mean = r + d` and `var = (pooled mean of (h - r)^2) - d^2`, without cancellation.

    Args:
      model: whose statistics clients measured against.
      decrease: the weighted mean of their reports, shaped like `model`.
      at: where the statistics are.
    """
    shift = pick(decrease, at.means)
    means = tuple(old - d for old, d in zip(pick(model, at.means), shift, strict=True))
    spread = zip(pick(model, at.variances), pick(decrease, at.variances), shift, strict=True)
    variances = tuple(jnp.maximum(old - less - d * d, 0) for old, less, d in spread)
    return put(model, at.means + at.variances, means + variances)
