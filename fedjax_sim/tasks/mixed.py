"""Networks of different architectures as one model, of which every client has its own part.

A model of all A architectures has their parameters as rows of one array, each row packed and filled
up with zeros to the longest. A client's model is one row; which architecture it is stands in the
state, where no optimizer, clipping or noise touches it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.types import Array, Model, PyTree
from fedjax_sim.tasks import layers
from fedjax_sim.tasks.networks import ModelSpec, Network, as_network

BODY, HEAD = "body", "head"


class Architecture(NamedTuple):
    """The state of a mixed model.

    Attributes:
      which: int32, `()` for one client's model, `[A]` for all architectures' together.
    """

    which: Array


def n_architectures(model: Model) -> int:
    """A of a model of all architectures, 1 of any other."""
    return model.state.which.shape[0] if _is_of_all(model) else 1


def own(model: Model, index: Array) -> Model:
    """The model of architecture `index`; a model that is not mixed is everyone's."""
    return tree.take(model, index) if _is_of_all(model) else model


def architecture_of(model: Model) -> Array:
    """Which architecture a client's model has, int32; 0 for a model that is not mixed."""
    if isinstance(model.state, Architecture):
        return model.state.which
    return jnp.zeros((), jnp.int32)


def in_rows(model: Model) -> Model:
    """Leaves `[A, ...]`, a row an architecture; A is 1 for a model that is not mixed."""
    return model if _is_of_all(model) else jax.tree.map(lambda x: x[None], model)


def mixed(*models: Any, width: int = 32) -> ModelSpec:
    """A model whose architecture differs from client to client.

    Every network is a body of `width` outputs, its representation, and a dense head on it, so that
    representations of all architectures can be compared. A client's model answers with its own
    network. A model of all architectures, such as `init` gives, answers with the mean of their
    outputs; an algorithm that knows nothing of architectures trains all of them on every client.

    Args:
      *models: what `networks.as_network` takes, without a state such as batch statistics.
      width: F, of the representation.

    Returns:
      A spec of `params` `[A, P]`, P being the parameters of the largest, and a state
      `Architecture`; of a client's model, `params` `[P]`.

    Raises:
      InputError: no model, a width below 1; when it is bound to data, a network with a state or one
        whose outputs are not `[B, width]`.

    Cost: A x P for all; a client's model costs P and its own network's pass. Where clients are
      vmapped over lanes, every lane computes all A passes.
    """
    integer("model.width", width, least=1)
    if not models:
        raise InputError("model.models", [], "must be at least one network")
    name = f"mixed({', '.join(str(m) for m in models)}, width={width})"

    def build(outputs: int) -> Network:
        bodies = [as_network(m, width) for m in models]
        return _network(bodies, [str(m) for m in models], width, outputs)

    return ModelSpec(name, build)


def _network(bodies: list[Network], names: list[str], width: int, outputs: int) -> Network:
    parts = range(len(bodies))

    def init_one(i: int, key: Array, x: Array) -> PyTree:
        body = bodies[i].init(jax.random.fold_in(key, 0), x)
        if jax.tree.leaves(body.state):
            remedy = "has a state, such as batch statistics, which a mixed model cannot hold"
            raise InputError("model.models", names[i], remedy)
        shape = jax.eval_shape(lambda: bodies[i].apply(body, x)[0]).shape
        if shape != (x.shape[0], width):
            remedy = f"gives outputs {list(shape)}, must give a representation [B, {width}]"
            raise InputError("model.models", names[i], remedy)
        dtype = layers.float_dtype(x)
        head = layers.affine(jax.random.fold_in(key, 1), (width, outputs), "he", dtype)
        return {BODY: body.params, HEAD: head}

    def shapes(x: Array) -> list[PyTree]:
        one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
        key = jax.eval_shape(lambda: jax.random.key(0))
        return [jax.eval_shape(lambda k, x, i=i: init_one(i, k, x), key, one) for i in parts]

    def init(key: Array, x: Array) -> Model:
        made = [init_one(i, jax.random.fold_in(key, i), x) for i in parts]
        longest = max(tree.n_entries(m) for m in made)
        rows = jnp.stack([_packed(m, longest) for m in made])
        return Model(rows, Architecture(jnp.arange(len(made), dtype=jnp.int32)))

    def branch(i: int, shape: PyTree) -> Callable[[Array, Array], tuple[Array, Array]]:
        def run(row: Array, x: Array) -> tuple[Array, Array]:
            params = _unpacked(row, shape)
            features, _ = bodies[i].apply(Model(params[BODY], ()), x)
            features = features.astype(row.dtype)
            return layers.dense(params[HEAD], features), features

        return run

    def inspect(model: Model, x: Array, **mode: Any) -> tuple[tuple[Array, Array], PyTree]:
        del mode
        branches = [branch(i, s) for i, s in enumerate(shapes(x))]
        if _is_of_all(model):
            found = [run(row, x) for run, row in zip(branches, model.params, strict=True)]
            mean = jax.tree.map(lambda *v: jnp.mean(jnp.stack(v), axis=0), *found)
            return mean, model.state
        return jax.lax.switch(model.state.which, branches, model.params, x), model.state

    def apply(model: Model, x: Array, **mode: Any) -> tuple[Array, PyTree]:
        (out, _), state = inspect(model, x, **mode)
        return out, state

    return Network(init, apply, inspect=inspect)


def _is_of_all(model: Model) -> bool:
    return isinstance(model.state, Architecture) and model.state.which.ndim == 1


def _packed(params: PyTree, longest: int) -> Array:
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    return jnp.pad(flat, (0, longest - flat.size))


def _unpacked(row: Array, shapes: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(shapes)
    sizes = [math.prod(s.shape) for s in leaves]
    begins = itertools.accumulate(sizes, initial=0)
    cut = [
        row[begin : begin + size].reshape(s.shape)
        for begin, size, s in zip(begins, sizes, leaves, strict=False)
    ]
    return jax.tree.unflatten(structure, cut)
