"""Networks that start at a saddle, by their zeros or by their symmetry."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, choice, integer, number
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Batch, PyTree
from fedjax_sim.tasks.functional import from_loss
from fedjax_sim.tasks.networks import ModelSpec, from_functions
from fedjax_sim.tasks.objectives import sum_where


def deep_linear(*widths: int, start: str = "zero") -> Task:
    """A deep linear network, `|W_d ... W_1 x - y|^2 / 2` per example, x and y from the data.

    All of its local minima are global and every other critical point is a saddle. Zero is one:
    strict for depth 2 (its negative eigenvalues are minus the singular values of the mean of
    `y x'`), flat to second order beyond.

    Args:
      *widths: inputs, hidden units, outputs: at least three.
      start: `zero`, the saddle, or `normal`, weights of variance 1 / fan-in.

    Returns:
      A task with `params = {"w1": [inputs, hidden], ...}` and the metric `loss`.

    Raises:
      InputError: fewer than three widths, one below 1, or an unknown start.

    Reference: Kawaguchi, Deep Learning without Poor Local Minima, 2016, arXiv:1605.07110,
      theorem 2.3.
    """
    if len(widths) < 3:
        raise InputError("widths", widths, "must be inputs, hidden units and outputs")
    for width in widths:
        integer("widths", width, least=1)
    choice("start", start, ("zero", "normal"))
    names = [f"w{i + 1}" for i in range(len(widths) - 1)]

    def init(key: Array) -> PyTree:
        shapes = list(itertools.pairwise(widths))
        if start == "zero":
            return {n: jnp.zeros(s) for n, s in zip(names, shapes, strict=True)}
        draws = jax.random.split(key, len(names))
        return {
            n: jax.random.normal(k, s) / np.sqrt(s[0])
            for n, k, s in zip(names, draws, shapes, strict=True)
        }

    def predict(params: PyTree, x: Array) -> Array:
        for name in names:
            x = x @ params[name]
        return x

    def losses(outputs: Array, y: Array) -> Array:
        return 0.5 * jnp.sum(jnp.square(outputs - y), axis=-1)

    def metrics(outputs: Array, batch: Batch) -> dict[str, tuple[Array, Array]]:
        return {"loss": sum_where(losses(outputs, batch.y), batch.mask)}

    return from_loss(
        init, lambda p, x, y: losses(predict(p, x), y), predict=predict, metrics=metrics
    )


def symmetric_mlp(hidden: int, *, activation: str = "tanh", scale: float = 0.3) -> ModelSpec:
    """One hidden layer whose units all start alike, and so stay alike under descent.

    Exchanging two units changes nothing, so gradients keep the units equal: descent trains a
    network of one unit, and ends at its best, which for more units is as a rule a saddle.
    `scale = 0` starts all hidden weights at zero, where only the last bias has a gradient.

    Args:
      hidden: units.
      activation: `tanh` or `softplus` (its value at 0 is not 0, so zero weights do move).
      scale: of the weights all units share, drawn from the key: normal x scale / sqrt(fan-in).

    Returns:
      A spec with leaves `hidden.{w,b}` and `head.{w,b}`.

    Raises:
      InputError: fewer than one unit, an unknown activation, a negative scale.
    """
    integer("hidden", hidden, least=1)
    choice("activation", activation, ("tanh", "softplus"))
    number("scale", scale, least=0)
    bend = {"tanh": jnp.tanh, "softplus": jax.nn.softplus}[activation]

    def build(outputs: int) -> Any:
        def init(key: Array, x: Array) -> PyTree:
            inputs = int(np.prod(x.shape[1:]))
            low, high = jax.random.split(key)
            w = scale / np.sqrt(inputs) * jax.random.normal(low, (inputs, 1))
            out = scale / np.sqrt(hidden) * jax.random.normal(high, (1, outputs))
            return {
                "hidden": {"w": jnp.tile(w, (1, hidden)), "b": jnp.zeros(hidden)},
                "head": {"w": jnp.tile(out, (hidden, 1)), "b": jnp.zeros(outputs)},
            }

        def apply(params: PyTree, x: Array) -> Array:
            x = x.reshape(x.shape[0], -1)
            x = bend(x @ params["hidden"]["w"] + params["hidden"]["b"][None, :])
            return x @ params["head"]["w"] + params["head"]["b"][None, :]

        return from_functions(init, apply)

    return ModelSpec(f"symmetric_mlp({hidden}, {activation})", build)
