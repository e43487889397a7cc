"""Flax linen modules as networks."""

from __future__ import annotations

from typing import Any

import jax

from fedjax_sim.core.types import Array, Model, PyTree
from fedjax_sim.tasks.networks import Network, call_flags

_TRANSIENT = ("params", "intermediates", "perturbations")


def from_linen(module: Any) -> Network:
    """Wrap a flax linen module.

    Collections other than `params` (batch statistics and the like) become `Model.state`; what
    `sow` leaves in `intermediates` is dropped. The mode is passed by whichever of `train`,
    `training`, `deterministic`, `use_running_average` the module's `__call__` declares; a
    declared `mask` receives the batch's mask `[B]`, to be handed (reshaped) to a masked batch
    norm. Without it padding rows, which repeat real examples, enter the statistics. A module that
    calls `self.sow("intermediates", "features", z)` shows z `[B, F]` as its representation.

    Args:
      module: a linen module; `module(x [B, ...])` gives outputs `[B, ...]`.

    Returns:
      The network; dropout and any other stream draw from the key given to `apply`.
    """
    call = type(module).__call__

    def init(key: Array, x: Array) -> Model:
        flags = call_flags(call, train=False, mask=None)
        variables = module.init(_streams(key), x, **flags)
        return Model(variables.get("params", {}), _kept(variables))

    def run(
        model: Model,
        x: Array,
        key: Array | None,
        train: bool,
        mask: Array | None,
        also: tuple[str, ...],
    ) -> tuple[Array, PyTree, PyTree]:
        """Outputs, the state after them, and what was left in the collections of `also`."""
        variables = {"params": model.params, **(model.state or {})}
        flags = call_flags(call, train, mask)
        rngs = None if key is None else _streams(key)
        collections = list(model.state) if train and model.state else []
        if not collections and not also:
            return module.apply(variables, x, rngs=rngs, **flags), model.state, {}
        mutable = [*collections, *also]
        outputs, new = module.apply(variables, x, rngs=rngs, mutable=mutable, **flags)
        state = {name: new[name] for name in collections} if collections else model.state
        return outputs, state, new

    def apply(
        model: Model,
        x: Array,
        *,
        key: Array | None = None,
        train: bool = False,
        mask: Array | None = None,
    ) -> tuple[Array, PyTree]:
        outputs, state, _ = run(model, x, key, train, mask, ())
        return outputs, state

    def inspect(
        model: Model,
        x: Array,
        *,
        key: Array | None = None,
        train: bool = False,
        mask: Array | None = None,
    ) -> tuple[tuple[Array, Array | None], PyTree]:
        outputs, state, new = run(model, x, key, train, mask, ("intermediates",))
        sown = new.get("intermediates", {}).get("features")
        return (outputs, sown[-1] if sown else None), state

    return Network(init, apply, inspect=inspect)


def _streams(key: Array) -> dict[str, Array]:
    """Named streams; linen takes `params` for any name that is not listed."""
    return {"params": key, "dropout": jax.random.fold_in(key, 1)}


def _kept(variables: dict[str, Any]) -> PyTree:
    state = {name: tree for name, tree in variables.items() if name not in _TRANSIENT}
    return state if state else ()
