"""The models of the field, as plain functions; each still waits for its number of outputs.

`classifier(models.mlp(200, 200), classes=10)` supplies it. The last layer is always called
`head`, so that recipes that personalise or freeze it can find it; what it is given is the
model's representation (`Task.features`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

from fedjax_sim.core.checks import choice, integer
from fedjax_sim.core.types import Array, Model, PyTree
from fedjax_sim.tasks import layers, norms
from fedjax_sim.tasks.exits import mlp_exits
from fedjax_sim.tasks.lstm import lstm_chars
from fedjax_sim.tasks.networks import ModelSpec, Network, from_functions
from fedjax_sim.tasks.norms import Norm

__all__ = ["cnn_mcmahan", "cnn_w1", "logistic", "lstm_chars", "mlp", "mlp_exits"]


_PLAIN = norms.norm_of("none", None, None, ())
_Between = Callable[[str, Array], Array]
_Trunk = Callable[[PyTree, Array, _Between], Array]


def logistic(*, init: str = "zeros") -> ModelSpec:
    """Multinomial logistic (or linear) regression on the flattened input.

    Args:
      init: one of `layers.INITS`; the problem is convex, so zeros are a good start.

    Returns:
      A spec with `(inputs + 1) x outputs` parameters.
    """
    choice("init", init, layers.INITS)
    return ModelSpec("logistic()", lambda outputs: _perceptron((), outputs, init, _PLAIN))


def mlp(
    *widths: int,
    init: str = "he",
    norm: str = "none",
    norm_groups: int | None = None,
    norm_momentum: float | None = None,
) -> ModelSpec:
    """Fully connected layers with ReLU between them, on the flattened input.

    Args:
      *widths: hidden units layer by layer; none makes it linear.
      init: one of `layers.INITS`.
      norm: one of `norms.NORMS`, applied to each hidden layer before its ReLU.
      norm_groups: groups of channels of `group`, 8 by default.
      norm_momentum: share of the old that running statistics keep a step under `batch`, 0.9
        by default.

    Returns:
      The spec.

    Raises:
      InputError: for a width below 1, an unknown `init` or `norm`, and groups that do not
        divide the widths.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> network = mlp(200, 200).build(10)
      >>> params = network.init(jax.random.key(0), jnp.zeros((1, 784))).params
      >>> sum(leaf.size for leaf in jax.tree.leaves(params))
      199210
    """
    for width in widths:
        integer("widths", width, least=1)
    choice("init", init, layers.INITS)
    rule = norms.norm_of(norm, norm_groups, norm_momentum, widths)
    name = f"mlp({', '.join([*map(str, widths), *_named(norm)])})"
    return ModelSpec(name, lambda outputs: _perceptron(widths, outputs, init, rule))


def cnn_mcmahan(
    *,
    init: str = "he",
    norm: str = "none",
    norm_groups: int | None = None,
    norm_momentum: float | None = None,
) -> ModelSpec:
    """The MNIST CNN of the paper that introduced federated averaging.

    5x5x32 (same), 2x2 max-pool, 5x5x64 (same), 2x2 max-pool, dense 512: 1,663,370 parameters
    for 28x28x1 inputs and 10 outputs.

    Args:
      init: one of `layers.INITS`.
      norm: one of `norms.NORMS`, applied to each hidden layer before its ReLU.
      norm_groups: groups of channels of `group`, 8 by default.
      norm_momentum: share of the old that running statistics keep a step under `batch`, 0.9
        by default.

    Returns:
      The spec.

    References:
      H. B. McMahan et al., Communication-Efficient Learning of Deep Networks from
      Decentralized Data, 2017, arXiv 1602.05629, section 3.
    """
    choice("init", init, layers.INITS)
    rule = norms.norm_of(norm, norm_groups, norm_momentum, (32, 64, 512))

    def trunk(params: PyTree, x: Array, between: _Between) -> Array:
        x = between("norm_0", layers.conv(params["conv_0"], x, "SAME"))
        x = jax.nn.relu(layers.max_pool_2x2(x))
        x = between("norm_1", layers.conv(params["conv_1"], x, "SAME"))
        return jax.nn.relu(layers.max_pool_2x2(x))

    name = f"cnn_mcmahan({', '.join(_named(norm))})"
    return ModelSpec(name, lambda outputs: _cnn(trunk, 5, 512, outputs, init, rule))


def cnn_w1(
    *,
    init: str = "he",
    norm: str = "none",
    norm_groups: int | None = None,
    norm_momentum: float | None = None,
) -> ModelSpec:
    """The CIFAR-10 CNN by which simulators of federated learning are timed.

    3x3x32 and 3x3x64 (valid), 2x2 max-pool, dense 128: 1,626,442 parameters for 32x32x3
    inputs and 10 outputs.

    Args:
      init: one of `layers.INITS`.
      norm: one of `norms.NORMS`, applied to each hidden layer before its ReLU.
      norm_groups: groups of channels of `group`, 8 by default.
      norm_momentum: share of the old that running statistics keep a step under `batch`, 0.9
        by default.

    Returns:
      The spec.

    References:
      F. Granqvist et al., pfl-research, 2024, arXiv 2404.06430, table 1.
    """
    choice("init", init, layers.INITS)
    rule = norms.norm_of(norm, norm_groups, norm_momentum, (32, 64, 128))

    def trunk(params: PyTree, x: Array, between: _Between) -> Array:
        x = jax.nn.relu(between("norm_0", layers.conv(params["conv_0"], x, "VALID")))
        x = between("norm_1", layers.conv(params["conv_1"], x, "VALID"))
        return jax.nn.relu(layers.max_pool_2x2(x))

    name = f"cnn_w1({', '.join(_named(norm))})"
    return ModelSpec(name, lambda outputs: _cnn(trunk, 3, 128, outputs, init, rule))


def _named(norm: str) -> list[str]:
    return [] if norm == "none" else [f"norm={norm}"]


def _perceptron(widths: tuple[int, ...], outputs: int, init: str, rule: Norm) -> Network:
    hidden = [f"dense_{i}" for i in range(len(widths))]

    def init_params(key: Array, x: Array) -> PyTree:
        sizes = (math.prod(x.shape[1:]), *widths, outputs)
        keys = jax.random.split(key, len(sizes) - 1)
        shapes = zip([*hidden, "head"], keys, sizes[:-1], sizes[1:], strict=True)
        dtype = layers.float_dtype(x)
        return {name: layers.affine(k, (a, b), init, dtype) for name, k, a, b in shapes}

    def body(params: PyTree, x: Array, between: _Between) -> Array:
        x = x.reshape(x.shape[0], -1).astype(params["head"]["w"].dtype)
        for i, name in enumerate(hidden):
            x = jax.nn.relu(between(f"norm_{i}", layers.dense(params[name], x)))
        return x

    return _normalising(init_params, body, widths, rule)


def _cnn(
    trunk: _Trunk,
    side: int,
    width: int,
    outputs: int,
    init: str,
    rule: Norm,
) -> Network:
    """Two convolutions of 32 and 64 channels (`trunk`), one hidden dense layer, the head."""

    def init_params(key: Array, x: Array) -> PyTree:
        x, dtype = layers.as_images(x), layers.float_dtype(x)
        keys = jax.random.split(key, 4)
        params = {
            "conv_0": layers.affine(keys[0], (side, side, x.shape[-1], 32), init, dtype),
            "conv_1": layers.affine(keys[1], (side, side, 32, 64), init, dtype),
        }
        shape = jax.eval_shape(lambda p, x: trunk(p, x, _as_is), params, x.astype(dtype)).shape
        params["dense"] = layers.affine(keys[2], (math.prod(shape[1:]), width), init, dtype)
        params["head"] = layers.affine(keys[3], (width, outputs), init, dtype)
        return params

    def body(params: PyTree, x: Array, between: _Between) -> Array:
        x = trunk(params, layers.as_images(x).astype(params["head"]["w"].dtype), between)
        x = layers.dense(params["dense"], x.reshape(x.shape[0], -1))
        return jax.nn.relu(between("norm_2", x))

    return _normalising(init_params, body, (32, 64, width), rule)


def _as_is(name: str, x: Array) -> Array:
    del name
    return x


def _normalising(
    init_params: Callable[[Array, Array], PyTree],
    body: _Trunk,
    widths: tuple[int, ...],
    rule: Norm,
) -> Network:
    """A network of a `body`, whose result is the representation, and a dense head on it.

    The body hands its hidden layers to its third argument as `norm_0, norm_1, ...`.
    """
    if rule.kind == "none":

        def features(params: PyTree, x: Array) -> Array:
            return body(params, x, _as_is)

        def outputs(params: PyTree, x: Array) -> Array:
            return layers.dense(params["head"], features(params, x))

        return from_functions(init_params, outputs, features)

    def init(key: Array, x: Array) -> Model:
        named = {f"norm_{i}": width for i, width in enumerate(widths)}
        params, state = rule.init(named, layers.float_dtype(x))
        return Model(init_params(key, x) | params, state or ())

    def run(model: Model, x: Array, mask: Array | None, mode: str) -> tuple[Any, PyTree]:
        """`((outputs, features), state)`."""
        state: dict[str, PyTree] = {}

        def between(name: str, x: Array) -> Array:
            layer = model.params[name]
            if rule.kind != "batch":
                return norms.group_norm(layer, x, 1 if rule.kind == "layer" else rule.groups)
            running = model.state[name]
            mean, var = running["mean"], running["var"]
            if mode != "evaluate":
                mean_now, var_now = norms.moments(x, mask)
                keep = rule.momentum if mode == "train" else 0.0
                state[name] = {
                    "mean": keep * mean + (1 - keep) * mean_now,
                    "var": keep * var + (1 - keep) * var_now,
                }
                if mode == "train":
                    mean, var = mean_now, var_now
            return norms.batch_norm(layer, mean, var, x)

        features = body(model.params, x, between)
        outputs = layers.dense(model.params["head"], features)
        return (outputs, features), state or model.state

    def inspect(
        model: Model,
        x: Array,
        *,
        key: Array | None = None,
        train: bool = False,
        mask: Array | None = None,
    ) -> tuple[tuple[Array, Array], PyTree]:
        del key
        return run(model, x, mask, "train" if train else "evaluate")

    def apply(model: Model, x: Array, **mode: Any) -> tuple[Array, PyTree]:
        (outputs, _), state = inspect(model, x, **mode)
        return outputs, state

    def measure(model: Model, x: Array, mask: Array | None) -> tuple[Array, PyTree]:
        (outputs, _), state = run(model, x, mask, "measure")
        return outputs, state

    return Network(init, apply, measure, inspect)
