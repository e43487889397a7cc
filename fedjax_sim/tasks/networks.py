"""One face for every kind of model: flax linen, flax nnx, or two plain functions.

A `Network` is a pair of pure functions over `Model(params, state)`. Flax is never imported
from here unless the user handed over a flax object.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Array, Model, PyTree
from fedjax_sim.tasks import norms
from fedjax_sim.tasks.norms import Frozen, Measured

_ACCEPTED = (
    "must be a built-in model such as models.mlp(200), a flax linen module, a flax nnx module "
    "or a factory of one with a parameter `rngs`, a pair (init, apply), or a Network"
)


class Network(NamedTuple):
    """A model as two pure functions.

    Attributes:
      init: `(key, x_example [1, ...]) -> Model`.
      apply: `(Model, x [B, ...], *, key=None, train=False, mask=None) -> (outputs, state)`;
        `mask` is bool `[B]`, False for padding rows, and reaches only models that ask for it;
        outside training the state comes back as it was.
      measure: `(Model, x, mask) -> (outputs of evaluation mode, state of moments)`, see
        `norms.Measured`; None where the model cannot say.
      inspect: as `apply`, but `-> ((outputs, features [B, F]), state)`; None, or None in place of
        the features, where the model has no representation to show.
      exits: as `apply`, but `-> (outputs of every exit, state)`, a tuple, the shallowest first;
        None for a model with one exit.
    """

    init: Callable[..., Model]
    apply: Callable[..., tuple[Array, PyTree]]
    measure: Callable[..., tuple[Array, PyTree]] | None = None
    inspect: Callable[..., tuple[Any, PyTree]] | None = None
    exits: Callable[..., tuple[Any, PyTree]] | None = None


class ModelSpec(NamedTuple):
    """A model that still has to be told how many outputs it has.

    Attributes:
      name: how it was asked for, for messages and reports: `mlp(200, 200)`.
      build: `(out_features) -> Network`.
    """

    name: str
    build: Callable[[int], Network]

    def __str__(self) -> str:
        """Return the name."""
        return self.name


def from_functions(
    init: Callable[..., PyTree],
    apply: Callable[..., Array],
    features: Callable[..., Array] | None = None,
) -> Network:
    """Wrap plain functions; the model has no state and is the same in training.

    Args:
      init: `(key, x_example [1, ...]) -> params`.
      apply: `(params, x [B, ...]) -> outputs [B, ...]`.
      features: `(params, x [B, ...]) -> representation [B, F]`, for the algorithms that look at
        it; what it shares with `apply` is computed once.

    Returns:
      The network.
    """

    def pure(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(
            model: Model,
            x: Array,
            *,
            key: Array | None = None,
            train: bool = False,
            mask: Array | None = None,
        ) -> tuple[Any, PyTree]:
            del key, train, mask
            return function(model.params, x), model.state

        return call

    inspect = None if features is None else pure(lambda p, x: (apply(p, x), features(p, x)))
    return Network(lambda key, x: Model(init(key, x), ()), pure(apply), inspect=inspect)


def from_linen(module: Any) -> Network:
    """Wrap a flax linen module; see `fedjax_sim.tasks.linen.from_linen`."""
    from fedjax_sim.tasks import linen

    return linen.from_linen(module)


def from_nnx(factory: Any) -> Network:
    """Wrap a flax nnx module or factory; see `fedjax_sim.tasks.nnx.from_nnx`."""
    from fedjax_sim.tasks import nnx

    return nnx.from_nnx(factory)


def as_network(model: Any, outputs: int) -> Network:
    """Turn whatever a user calls a model into a `Network`.

    Args:
      model: a `ModelSpec`, `Network`, linen module, nnx module, callable with a parameter
        `rngs` that makes an nnx module, or pair `(init, apply)` of plain functions.
      outputs: number of outputs; only a `ModelSpec` needs to be told.

    Returns:
      The network, which understands `norms.Frozen` and `norms.Measured` states.

    Raises:
      InputError: for anything else (field `model`).
    """
    return with_modes(_as_plain_network(model, outputs))


def _as_plain_network(model: Any, outputs: int) -> Network:
    if isinstance(model, ModelSpec):
        return model.build(outputs)
    if isinstance(model, Network):
        return model
    linen, nnx = sys.modules.get("flax.linen"), sys.modules.get("flax.nnx")
    if linen is not None and isinstance(model, linen.Module):
        return from_linen(model)
    if nnx is not None and (isinstance(model, nnx.Module) or "rngs" in argument_names(model)):
        return from_nnx(model)
    if isinstance(model, tuple) and len(model) == 2 and all(callable(f) for f in model):
        return from_functions(*model)
    if linen is not None and isinstance(model, type) and issubclass(model, linen.Module):
        raise InputError("model", model.__name__, f"is a class; give an instance, {_call(model)}")
    raise InputError("model", model, _ACCEPTED)


def with_modes(network: Network) -> Network:
    """A network whose `apply` also takes a state marked `norms.Frozen` or `norms.Measured`.

    A model without `measure` is measured in training mode, where each batch norm passes on
    what its own batch made: exact for the first one, close for those behind it where batches
    are large and alike. The update `m old + (1 - m) batch` is solved for the batch's value.
    """

    def apply(
        model: Model,
        x: Array,
        *,
        key: Array | None = None,
        train: bool = False,
        mask: Array | None = None,
    ) -> tuple[Array, PyTree]:
        marked = model.state
        if not isinstance(marked, (Frozen, Measured)):
            return network.apply(model, x, key=key, train=train, mask=mask)
        plain = Model(model.params, marked.state)
        if isinstance(marked, Measured) and network.measure is not None:
            outputs, found = network.measure(plain, x, mask)
            return outputs, Measured(found)
        outputs, _ = network.apply(plain, x, key=key, train=False, mask=mask)
        if isinstance(marked, Frozen):
            return outputs, marked
        return outputs, Measured(_solved(network, plain, x, key, mask))

    def frozen(run: Callable[..., tuple[Any, PyTree]]) -> Callable[..., tuple[Any, PyTree]]:
        def call(model: Model, x: Array, *, train: bool = False, **more: Any) -> tuple[Any, PyTree]:
            marked = model.state
            if not isinstance(marked, Frozen):
                return run(model, x, train=train, **more)
            plain = Model(model.params, marked.state)
            return run(plain, x, train=False, **more)[0], marked

        return call

    inspect = None if network.inspect is None else frozen(network.inspect)
    exits = None if network.exits is None else frozen(network.exits)
    return network._replace(apply=apply, inspect=inspect, exits=exits)


def _solved(
    network: Network, model: Model, x: Array, key: Array | None, mask: Array | None
) -> PyTree:
    """The batch statistics behind the running ones that training mode makes of 0 and of 1."""
    at = norms.find(model)
    statistics = at.means + at.variances

    def trained(value: float) -> tuple[Array, ...]:
        filled = tuple(jnp.full_like(old, value) for old in norms.pick(model, statistics))
        start = norms.put(model, statistics, filled)
        _, state = network.apply(start, x, key=key, train=True, mask=mask)
        return norms.pick(Model(model.params, state), statistics)

    low, high = trained(0.0), trained(1.0)
    moved = jax.tree.map(lambda a, b: 1 - (b - a), low, high)
    batch = jax.tree.map(lambda a, share: a / jnp.where(share > 0, share, 1), low, moved)
    return norms.put(model, statistics, tree.strong(batch)).state


def argument_names(function: Any) -> set[str]:
    """Names of the parameters that `function` declares; empty when it cannot be asked."""
    while isinstance(function, functools.partial):
        function = function.func
    # The metaclass of flax modules hides what a class's constructor declares.
    function = function.__init__ if isinstance(function, type) else function
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return set()


def call_flags(function: Any, train: bool, mask: Array | None) -> dict[str, Any]:
    """Arguments by which a module's `__call__` learns the mode, as far as it declares them.

    Args:
      function: the module's `__call__`.
      train: training or evaluation.
      mask: bool `[B]` or None.

    Returns:
      Some of `train`, `training`, `deterministic`, `use_running_average`, `mask`.
    """
    flags = {
        "train": train,
        "training": train,
        "deterministic": not train,
        "use_running_average": not train,
        "mask": mask,
    }
    names = argument_names(function)
    return {name: value for name, value in flags.items() if name in names}


def _call(cls: type) -> str:
    return f"{cls.__name__}(...)"
