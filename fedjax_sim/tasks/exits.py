"""Models with an exit after every block, so that a client may train the first blocks alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from fedjax_sim.core.checks import InputError, choice, integer
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.programs import called
from fedjax_sim.core.types import Array, Batch, Model, PyTree
from fedjax_sim.tasks import layers
from fedjax_sim.tasks.networks import ModelSpec, Network, as_network, from_functions


def with_exits(model: Any) -> ModelSpec:
    """A model that answers with a tuple of outputs, one for each exit; predicts their mean.

    An algorithm that knows nothing of exits trains that mean.

    Args:
      model: what `networks.as_network` takes; its call gives `([B, C], [B, C], ...)`, the
        shallowest exit first.

    Returns:
      A spec with `Network.exits`.

    Raises:
      InputError: when it is bound to data, where the model does not give such a tuple.

    Example:
      >>> import jax.numpy as jnp
      >>> halves = (lambda key, x: jnp.ones((4, 3)), lambda w, x: (x @ w, x @ (2 * w)))
      >>> with_exits(halves).name
      'with_exits(functions)'
    """
    name = str(model) if isinstance(model, ModelSpec) else type(model).__name__
    name = "functions" if isinstance(model, tuple) else name
    return ModelSpec(f"with_exits({name})", lambda outputs: _meeting(as_network(model, outputs)))


def _meeting(network: Network) -> Network:
    """The network of the mean over the exits."""

    def apply(model: Model, x: Array, **mode: Any) -> tuple[Array, PyTree]:
        outputs, state = network.apply(model, x, **mode)
        if not isinstance(outputs, (tuple, list)) or len({o.shape for o in outputs}) != 1:
            found = [list(o.shape) for o in jax.tree.leaves(outputs)]
            raise InputError("model", found, "must be a tuple of outputs, all of one shape")
        return jnp.mean(jnp.stack(outputs), axis=0), state

    return Network(network.init, apply, exits=network.apply)


def mlp_exits(*widths: int, init: str = "he") -> ModelSpec:
    """Fully connected layers with ReLU, and a dense exit after each; predicts the exits' mean.

    The last exit is called `head`, the others `exit_0`, `exit_1`, ...

    Args:
      *widths: hidden units layer by layer, at least one.
      init: one of `layers.INITS`.
    """
    if not widths:
        raise InputError("widths", [], "must be at least one layer")
    for width in widths:
        integer("widths", width, least=1)
    choice("init", init, layers.INITS)
    name = f"mlp_exits({', '.join(map(str, widths))})"
    return ModelSpec(name, lambda outputs: _perceptron(widths, outputs, init))


def _perceptron(widths: tuple[int, ...], outputs: int, init: str) -> Network:
    blocks = range(len(widths))
    ends = [*(f"exit_{i}" for i in blocks[:-1]), "head"]

    def init_params(key: Array, x: Array) -> PyTree:
        sizes, dtype = (math.prod(x.shape[1:]), *widths), layers.float_dtype(x)
        params = {}
        for i in blocks:
            body, end = jax.random.split(jax.random.fold_in(key, i))
            params[f"dense_{i}"] = layers.affine(body, sizes[i : i + 2], init, dtype)
            params[ends[i]] = layers.affine(end, (widths[i], outputs), init, dtype)
        return params

    def body(params: PyTree, x: Array) -> list[Array]:
        x = x.reshape(x.shape[0], -1).astype(params["head"]["w"].dtype)
        made = []
        for i in blocks:
            x = jax.nn.relu(layers.dense(params[f"dense_{i}"], x))
            made.append(x)
        return made

    def exits(params: PyTree, x: Array) -> Any:
        pairs = zip(ends, body(params, x), strict=True)
        return tuple(layers.dense(params[end], h) for end, h in pairs)

    def mean(params: PyTree, x: Array) -> Array:
        return jnp.mean(jnp.stack(exits(params, x)), axis=0)

    network = from_functions(init_params, mean, lambda params, x: body(params, x)[-1])
    return network._replace(exits=from_functions(init_params, exits).apply)


def depths(task: Task, model: Model, x_shape: Sequence[int], x_dtype: Any) -> tuple[int, ...]:
    """For each leaf of the model, the number of the first exit (from 1) that depends on it.

    Read off the program of `Task.exits`, not off names. A state that no exit reads in training,
    such as running statistics, is as deep as the parameters that its new value depends on. A leaf
    that nothing reads, and every leaf of a model with one exit, is of depth 1.

    Args:
      task: what is learned.
      model: arrays, or their shapes.
      x_shape: of one input, without the batch axis.
      x_dtype: of the inputs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_sim.tasks import build
      >>> task = build.classifier(mlp_exits(5, 5), 3, x_shape=(4,))
      >>> shapes = jax.eval_shape(task.init, jax.random.key(0))
      >>> depths(task, shapes, (4,), jnp.float32)
      (1, 1, 2, 2, 1, 1, 2, 2)
    """
    leaves, structure = jax.tree.flatten(model)
    if task.exits is None:
        return (1,) * len(leaves)
    shapes = tuple((tuple(leaf.shape), jnp.dtype(leaf.dtype)) for leaf in leaves)
    return _read(task.exits, structure, shapes, tuple(x_shape), jnp.dtype(x_dtype))


@functools.lru_cache(maxsize=64)
def _read(
    exits: Callable[..., Any],
    structure: Any,
    model: tuple[tuple[tuple[int, ...], Any], ...],
    x_shape: tuple[int, ...],
    x_dtype: Any,
) -> tuple[int, ...]:
    def flat(key: Array, x: Array, *leaves: Array) -> Any:
        batch = Batch(x, jnp.zeros(x.shape[0], jnp.int32), jnp.ones(x.shape[0], bool))
        outputs, state = exits(key, jax.tree.unflatten(structure, leaves), batch)
        return *outputs, *jax.tree.leaves(state)

    x = jax.ShapeDtypeStruct((2, *x_shape), x_dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))
    closed = jax.make_jaxpr(flat)(key, x, *(jax.ShapeDtypeStruct(*leaf) for leaf in model))
    given: list[frozenset[int]] = [frozenset(), frozenset(), *map(_only, range(len(model)))]
    sources = _sources(closed, given)
    kept = len(jax.tree.leaves(jax.tree.unflatten(structure, range(len(model))).state))
    of_exits, of_state = sources[: len(sources) - kept], sources[len(sources) - kept :]
    found: dict[int, int] = {}
    for depth, leaves in enumerate(of_exits, start=1):
        found |= {leaf: depth for leaf in leaves if leaf not in found}
    # Running statistics are not read in training: they belong to what makes them.
    for leaf, made_of in enumerate(of_state, start=len(model) - kept):
        found.setdefault(leaf, max((found.get(m, 1) for m in made_of), default=1))
    return tuple(found.get(leaf, 1) for leaf in range(len(model)))


def _only(leaf: int) -> frozenset[int]:
    return frozenset({leaf})


def _sources(closed: Any, given: list[frozenset[int]]) -> list[frozenset[int]]:
    """For each output of a program the inputs' marks that reach it."""
    jaxpr = closed.jaxpr if isinstance(closed, jex.ClosedJaxpr) else closed
    marks: dict[Any, frozenset[int]] = dict(zip(jaxpr.invars, given, strict=True))

    def of(atom: Any) -> frozenset[int]:
        return frozenset() if isinstance(atom, jex.Literal) else marks.get(atom, frozenset())

    for eqn in jaxpr.eqns:
        mine = [of(v) for v in eqn.invars]
        inner = called(eqn)
        if inner is not None and len(getattr(inner, "jaxpr", inner).invars) == len(mine):
            made = _sources(inner, mine)
        else:
            made = [frozenset().union(*mine)] * len(eqn.outvars)
        marks.update(zip(eqn.outvars, made, strict=True))
    return [of(v) for v in jaxpr.outvars]
