"""The models of the field, as plain functions; each still waits for its number of outputs.

`classifier(models.mlp(200, 200), classes=10)` supplies it. The last layer is always called
`head`, so that recipes that personalise or freeze it can find it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax

from fedjax_sim.core.checks import choice, integer
from fedjax_sim.core.types import Array, PyTree
from fedjax_sim.tasks import layers
from fedjax_sim.tasks.lstm import lstm_chars
from fedjax_sim.tasks.networks import ModelSpec, Network, from_functions

__all__ = ["cnn_mcmahan", "cnn_w1", "logistic", "lstm_chars", "mlp"]


def logistic(*, init: str = "zeros") -> ModelSpec:
    """Multinomial logistic (or linear) regression on the flattened input.

    Args:
      init: one of `layers.INITS`; the problem is convex, so zeros are a good start.

    Returns:
      A spec with `(inputs + 1) x outputs` parameters.
    """
    choice("init", init, layers.INITS)
    return ModelSpec("logistic()", lambda outputs: _perceptron((), outputs, init))


def mlp(*widths: int, init: str = "he") -> ModelSpec:
    """Fully connected layers with ReLU between them, on the flattened input.

    Args:
      *widths: hidden units layer by layer; none makes it linear.
      init: one of `layers.INITS`.

    Returns:
      The spec.

    Raises:
      InputError: for a width below 1 or an unknown `init`.

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
    name = f"mlp({', '.join(map(str, widths))})"
    return ModelSpec(name, lambda outputs: _perceptron(widths, outputs, init))


def cnn_mcmahan(*, init: str = "he") -> ModelSpec:
    """The MNIST CNN of the paper that introduced federated averaging.

    5x5x32 (same), 2x2 max-pool, 5x5x64 (same), 2x2 max-pool, dense 512: 1,663,370 parameters
    for 28x28x1 inputs and 10 outputs.

    Args:
      init: one of `layers.INITS`.

    Returns:
      The spec.

    References:
      H. B. McMahan et al., Communication-Efficient Learning of Deep Networks from
      Decentralized Data, 2017, arXiv 1602.05629, section 3.
    """
    choice("init", init, layers.INITS)

    def trunk(params: PyTree, x: Array) -> Array:
        x = jax.nn.relu(layers.max_pool_2x2(layers.conv(params["conv_0"], x, "SAME")))
        return jax.nn.relu(layers.max_pool_2x2(layers.conv(params["conv_1"], x, "SAME")))

    return ModelSpec("cnn_mcmahan()", lambda outputs: _cnn(trunk, 5, 512, outputs, init))


def cnn_w1(*, init: str = "he") -> ModelSpec:
    """The CIFAR-10 CNN by which simulators of federated learning are timed.

    3x3x32 and 3x3x64 (valid), 2x2 max-pool, dense 128: 1,626,442 parameters for 32x32x3
    inputs and 10 outputs.

    Args:
      init: one of `layers.INITS`.

    Returns:
      The spec.

    References:
      F. Granqvist et al., pfl-research, 2024, arXiv 2404.06430, table 1.
    """
    choice("init", init, layers.INITS)

    def trunk(params: PyTree, x: Array) -> Array:
        x = jax.nn.relu(layers.conv(params["conv_0"], x, "VALID"))
        return jax.nn.relu(layers.max_pool_2x2(layers.conv(params["conv_1"], x, "VALID")))

    return ModelSpec("cnn_w1()", lambda outputs: _cnn(trunk, 3, 128, outputs, init))


def _perceptron(widths: tuple[int, ...], outputs: int, init: str) -> Network:
    hidden = [f"dense_{i}" for i in range(len(widths))]

    def init_params(key: Array, x: Array) -> PyTree:
        sizes = (math.prod(x.shape[1:]), *widths, outputs)
        keys = jax.random.split(key, len(sizes) - 1)
        shapes = zip([*hidden, "head"], keys, sizes[:-1], sizes[1:], strict=True)
        dtype = layers.float_dtype(x)
        return {name: layers.affine(k, (a, b), init, dtype) for name, k, a, b in shapes}

    def apply(params: PyTree, x: Array) -> Array:
        x = x.reshape(x.shape[0], -1).astype(params["head"]["w"].dtype)
        for name in hidden:
            x = jax.nn.relu(layers.dense(params[name], x))
        return layers.dense(params["head"], x)

    return from_functions(init_params, apply)


def _cnn(
    trunk: Callable[[PyTree, Array], Array], side: int, width: int, outputs: int, init: str
) -> Network:
    """Two convolutions of 32 and 64 channels (`trunk`), one hidden dense layer, the head."""

    def init_params(key: Array, x: Array) -> PyTree:
        x, dtype = layers.as_images(x), layers.float_dtype(x)
        keys = jax.random.split(key, 4)
        params = {
            "conv_0": layers.affine(keys[0], (side, side, x.shape[-1], 32), init, dtype),
            "conv_1": layers.affine(keys[1], (side, side, 32, 64), init, dtype),
        }
        flat = math.prod(jax.eval_shape(trunk, params, x.astype(dtype)).shape[1:])
        params["dense"] = layers.affine(keys[2], (flat, width), init, dtype)
        params["head"] = layers.affine(keys[3], (width, outputs), init, dtype)
        return params

    def apply(params: PyTree, x: Array) -> Array:
        x = trunk(params, layers.as_images(x).astype(params["head"]["w"].dtype))
        x = jax.nn.relu(layers.dense(params["dense"], x.reshape(x.shape[0], -1)))
        return layers.dense(params["head"], x)

    return from_functions(init_params, apply)
