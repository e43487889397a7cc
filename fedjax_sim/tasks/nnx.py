"""Flax nnx modules as networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Array, Model, PyTree
from fedjax_sim.tasks.networks import Network, argument_names, call_flags


def from_nnx(factory: Any) -> Network:
    """Wrap a flax nnx module, its class, or a factory `rngs -> module`.

    `nnx.Param` becomes `Model.params`; every other variable but random streams and sown
    intermediates becomes `Model.state`; both are plain nested dicts. No random stream is
    carried: all of them are seeded anew from the key of each call. The mode is set by
    `module.train()` and `module.eval()`, and by the arguments that `__call__` declares, as in
    `from_linen`. A module that calls `self.sow(nnx.Intermediate, "features", z)` shows z `[B, F]`
    as its representation.

    Args:
      factory: called as `factory(rngs=rngs)` where it declares `rngs`, else `factory(rngs)`.
        A module instead of a factory always starts from its own values, whatever the key.

    Returns:
      The network.

    Raises:
      InputError: when the factory does not make an nnx module (field `model`).
    """
    given = factory if isinstance(factory, nnx.Module) else None
    make = (lambda rngs: given) if given is not None else _factory(factory)
    blank = given if given is not None else nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    if not isinstance(blank, nnx.Module):
        raise InputError("model", factory, "must make a flax nnx module")
    graph, params_shape, streams, rest_shape, _ = _split(blank)

    def init(key: Array, x: Array) -> Model:
        del x
        _, params, _, rest, _ = _split(make(nnx.Rngs(params=key, dropout=key, default=key)))
        # A copy: the caller may donate these buffers, and a given module owns its own.
        return jax.tree.map(jnp.copy, Model(_plain(params), _plain(rest)))

    def inspect(
        model: Model,
        x: Array,
        *,
        key: Array | None = None,
        train: bool = False,
        mask: Array | None = None,
    ) -> tuple[tuple[Array, Array | None], PyTree]:
        filled = (_filled(params_shape, model.params), _filled(rest_shape, model.state))
        module = nnx.merge(graph, *filled, _seeded(streams, key, train))
        module.train() if train else module.eval()
        flags = call_flags(type(module).__call__, train, mask)
        outputs, sown = nnx.capture(lambda m, x: m(x, **flags), nnx.Intermediate)(module, x)
        found = nnx.to_pure_dict(sown).get("features")
        state = _plain(_split(module)[3]) if train else model.state
        return (outputs, found[-1] if found else None), state

    def apply(model: Model, x: Array, **mode: Any) -> tuple[Array, PyTree]:
        (outputs, _), state = inspect(model, x, **mode)
        return outputs, state

    return Network(init, apply, inspect=inspect)


def _factory(factory: Any) -> Callable[[nnx.Rngs], Any]:
    if not callable(factory):
        raise InputError("model", factory, "must be a flax nnx module or make one from rngs")
    if "rngs" in argument_names(factory):
        return lambda rngs: factory(rngs=rngs)
    return factory


def _split(module: nnx.Module) -> Any:
    """Graph, parameters, random streams, the rest, sown intermediates."""
    graph, params, streams, sown, rest = nnx.split(
        module, nnx.Param, nnx.RngState, nnx.Intermediate, ...
    )
    return graph, params, streams, rest, sown


def _plain(state: Any) -> PyTree:
    tree = nnx.to_pure_dict(state)
    return tree if tree else ()


def _filled(shape: Any, tree: PyTree) -> Any:
    """The nnx state of structure `shape` that holds the arrays of `tree`."""
    return jax.tree.unflatten(jax.tree.structure(shape), jax.tree.leaves(tree))


def _seeded(streams: Any, key: Array | None, train: bool) -> Any:
    """Random streams seeded from `key`, their counters at zero."""
    leaves, structure = jax.tree.flatten(streams)
    if key is None:
        if leaves and train:
            raise InputError("key", None, "is needed to train a model with random streams")
        key = jax.random.key(0)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    base = key if typed else jax.random.wrap_key_data(key)

    def fresh(index: int, leaf: Any) -> Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)
        own = jax.random.fold_in(base, index)
        return jax.random.split(own, leaf.shape) if leaf.shape else own

    return jax.tree.unflatten(structure, [fresh(i, leaf) for i, leaf in enumerate(leaves)])
