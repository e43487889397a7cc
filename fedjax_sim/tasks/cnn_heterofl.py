"""The MNIST network by which HeteroFL counts parameters and operations."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_sim.core.checks import InputError, choice, integer, number
from fedjax_sim.core.types import Array, Model, PyTree
from fedjax_sim.tasks import layers, norms
from fedjax_sim.tasks.networks import ModelSpec, Network


def cnn_heterofl(
    *widths: int, init: str = "he", norm_momentum: float = 0.9, norm: str = "batch"
) -> ModelSpec:
    """3x3 convolutions (same), each with batch norm, ReLU and 2x2 max-pool, the last without.

    Then the mean over positions and a dense head: 1,556,874 parameters for 28x28x1 inputs, 10
    outputs and the widths 64, 128, 256, 512.

    Args:
      *widths: channels, layer by layer; none are 64, 128, 256, 512.
      init: one of `layers.INITS`.
      norm_momentum: share of the old that running statistics keep a step.
      norm: `batch` or `none`.

    Returns:
      The spec.

    Raises:
      InputError: for a width below 1, an unknown `init` or `norm`.

    Reference: Diao, Ding, Tarokh, HeteroFL: Computation and Communication Efficient Federated
      Learning for Heterogeneous Clients, 2020, arXiv:2010.01264, table of section 4. That the last
      layer is not pooled is what gives the published operations.
    """
    channels = widths or (64, 128, 256, 512)
    for width in channels:
        integer("widths", width, least=1)
    choice("init", init, layers.INITS)
    choice("norm", norm, ("batch", "none"))
    number("norm_momentum", norm_momentum, least=0, below=1)
    rule = norms.norm_of(norm, None, norm_momentum if norm == "batch" else None, channels)
    name = f"cnn_heterofl({', '.join(map(str, channels))})"
    return ModelSpec(name, lambda outputs: _network(channels, outputs, init, rule))


def _network(channels: tuple[int, ...], outputs: int, init: str, rule: norms.Norm) -> Network:
    names = [f"conv_{i}" for i in range(len(channels))]

    def begin(key: Array, x: Array) -> Model:
        x, dtype = layers.as_images(x), layers.float_dtype(x)
        if min(x.shape[1:3]) < 2 ** (len(channels) - 1):
            raise InputError("x_shape", x.shape[1:], "images are too small for so many layers")
        sizes = (x.shape[-1], *channels)
        keys = jax.random.split(key, len(channels) + 1)
        ends = zip(names, keys[:-1], sizes[:-1], sizes[1:], strict=True)
        params: PyTree = {n: layers.affine(k, (3, 3, a, b), init, dtype) for n, k, a, b in ends}
        params["head"] = layers.affine(keys[-1], (channels[-1], outputs), init, dtype)
        affine, state = rule.init(dict(zip(names, channels, strict=True)), dtype)
        return Model(params | {f"norm_{n}": v for n, v in affine.items()}, state or ())

    def run(model: Model, x: Array, mask: Array | None, mode: str) -> tuple[Array, PyTree]:
        params, state = model.params, dict[str, PyTree]()
        x = layers.as_images(x).astype(params["head"]["w"].dtype)
        for i, name in enumerate(names):
            x = layers.conv(params[name], x, "SAME")
            if rule.kind == "batch":
                x, state[name] = _normal(params[f"norm_{name}"], model.state[name], x, mask, mode)
            x = jax.nn.relu(x)
            x = layers.max_pool_2x2(x) if i < len(names) - 1 else x
        return layers.dense(params["head"], jnp.mean(x, (1, 2))), state or model.state

    def _normal(
        layer: PyTree, running: PyTree, x: Array, mask: Array | None, mode: str
    ) -> tuple[Array, PyTree]:
        if mode == "evaluate":
            return norms.batch_norm(layer, running["mean"], running["var"], x), running
        mean, var = norms.moments(x, mask)
        keep = rule.momentum if mode == "train" else 0.0
        now = {"mean": mean, "var": var}
        new = {n: keep * running[n] + (1 - keep) * now[n] for n in now}
        used = now if mode == "train" else running
        return norms.batch_norm(layer, used["mean"], used["var"], x), new

    def apply(
        model: Model,
        x: Array,
        *,
        key: Array | None = None,
        train: bool = False,
        mask: Array | None = None,
    ) -> tuple[Array, PyTree]:
        del key
        outputs, state = run(model, x, mask, "train" if train else "evaluate")
        return outputs, state if train else model.state

    return Network(begin, apply, lambda model, x, mask: run(model, x, mask, "measure"))
