"""The character LSTM of the Shakespeare benchmark."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_sim.core.checks import InputError, choice, integer
from fedjax_sim.core.types import Array, PyTree
from fedjax_sim.tasks.layers import INITS, affine, dense, weights
from fedjax_sim.tasks.networks import ModelSpec, Network, from_functions


def lstm_chars(
    vocab: int,
    *,
    embed: int = 8,
    hidden: int = 256,
    layers: int = 2,
    output: str = "every",
    init: str = "glorot",
) -> ModelSpec:
    """Embedding, stacked LSTM layers, and a dense head on the characters' states.

    Args:
      vocab: number of input characters; inputs are integers `[B, T]` below it.
      embed: size of the embedding.
      hidden: units of each LSTM layer.
      layers: number of LSTM layers, one on the other.
      output: `"every"` gives logits `[B, T, outputs]`, `"last"` only those of the last
        position, `[B, outputs]`.
      init: one of `INITS` but `zeros`; biases are 0 and the forget gate's 1, except
        under `torch`, where all of an LSTM layer is uniform within `1/sqrt(hidden)`.

    Returns:
      A spec; 820,522 parameters for 90 characters and 90 outputs. Its representation is the last
      position's state.

    Raises:
      InputError: for sizes below 1 and unknown options.

    References:
      H. B. McMahan et al., Communication-Efficient Learning of Deep Networks from
      Decentralized Data, 2017, arXiv 1602.05629, section 3.
    """
    sizes = {"vocab": vocab, "embed": embed, "hidden": hidden, "layers": layers}
    for field, value in sizes.items():
        integer(field, value, least=1)
    choice("output", output, ("every", "last"))
    choice("init", init, [name for name in INITS if name != "zeros"])

    def build(outputs: int) -> Network:
        def init_params(key: Array, x: Array) -> PyTree:
            if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
                raise InputError("x", (x.shape, str(x.dtype)), "must be integer characters [B, T]")
            dtype = jnp.result_type(float)
            keys = jax.random.split(key, layers + 2)
            table = jax.random.normal(keys[0], (vocab, embed), dtype)
            params: PyTree = {"embed": table if init == "torch" else table / math.sqrt(embed)}
            for i in range(layers):
                n_in = hidden if i else embed
                params[f"lstm_{i}"] = _layer(keys[i + 1], n_in, hidden, init, dtype)
            return params | {"head": affine(keys[-1], (hidden, outputs), init, dtype)}

        def run(params: PyTree, x: Array) -> Array:
            states = params["embed"][x]
            for i in range(layers):
                states = lstm_layer(params[f"lstm_{i}"], states)
            return states

        def apply(params: PyTree, x: Array) -> Array:
            states = run(params, x)
            return dense(params["head"], states if output == "every" else states[:, -1])

        return from_functions(init_params, apply, lambda params, x: run(params, x)[:, -1])

    return ModelSpec(f"lstm_chars({vocab})", build)


def lstm_layer(layer: dict[str, Array], x: Array) -> Array:
    """Run one LSTM layer from a zero state.

    `i, f, g, o` are the four blocks of `x_t @ w + h @ u + b`; then
    `c <- sigmoid(f) c + sigmoid(i) tanh(g)` and `h <- sigmoid(o) tanh(c)`. The input product
    of all positions is one matrix product outside the loop.

    Args:
      layer: `{"w": [in, 4H], "u": [H, 4H], "b": [4H]}`.
      x: inputs `[B, T, in]`.

    Returns:
      The states h `[B, T, H]`.
    """
    drive = dense(layer, x)
    zero = jnp.zeros((x.shape[0], layer["u"].shape[0]), drive.dtype)

    def step(carry: tuple[Array, Array], now: Array) -> tuple[tuple[Array, Array], Array]:
        h, c = carry
        i, f, g, o = jnp.split(now + h @ layer["u"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    _, states = lax.scan(step, (zero, zero), drive.swapaxes(0, 1))
    return states.swapaxes(0, 1)


def _layer(key: Array, n_in: int, hidden: int, init: str, dtype: jnp.dtype) -> dict[str, Array]:
    key_w, key_u, key_b = jax.random.split(key, 3)
    shapes: dict[str, tuple[int, ...]] = {"w": (n_in, 4 * hidden), "u": (hidden, 4 * hidden)}
    keys = {"w": key_w, "u": key_u}
    if init == "torch":
        bound = 1 / math.sqrt(hidden)
        shapes["b"], keys["b"] = (4 * hidden,), key_b
        return {n: jax.random.uniform(keys[n], shapes[n], dtype, -bound, bound) for n in shapes}
    drawn = {n: weights(keys[n], shapes[n], init, dtype) for n in shapes}
    return drawn | {"b": jnp.zeros((4 * hidden,), dtype).at[hidden : 2 * hidden].set(1)}
