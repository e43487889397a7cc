"""Optimizers of an experiment file as functions of named numbers, which are traced."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Array
from fedjax_sim.experiment.pieces import load_own
from fedjax_sim.experiment.sections import Optimizer, Schedule, facts_of
from fedjax_sim.transforms.schedule import scale_by_round


class Maker:
    """A function of named numbers that makes an optax transformation.

    Recipes read its signature, and trace the numbers that it names.

    Attributes:
      numbers: `{name: value}`, such as `client_learning_rate`.
    """

    def __init__(self, numbers: dict[str, float], make: Callable[..., Any]) -> None:
        self.numbers = numbers
        self._make = make
        kind = inspect.Parameter.KEYWORD_ONLY
        self.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in numbers])

    def __call__(self, **numbers: Any) -> optax.GradientTransformation:
        """The transformation for these numbers."""
        return self._make(**{name.split("_", 1)[1]: v for name, v in numbers.items()})


def maker(role: str, section: Optimizer, *, rounds: int = 1) -> Maker:
    """The optimizer of a section.

    Learning rate, momentum and weight decay are numbers of the maker; an absent momentum or
    decay stays absent, so that it costs no state.

    Args:
      role: `client` or `server`, the prefix of the numbers' names.
      section: validated.
      rounds: R, for schedules.
    """
    names = ["learning_rate"] + [n for n in ("momentum", "weight_decay") if getattr(section, n)]
    numbers = {f"{role}_{name}": float(getattr(section, name)) for name in names}
    schedule = getattr(section, "schedule", None)
    facts = facts_of(section.optimizer)
    own = None if facts else load_own(f"{role}.optimizer", section.optimizer)

    def make(*, weight_decay: Any = 0.0, **values: Any) -> optax.GradientTransformation:
        static = dict(section.optimizer_params)
        if section.nesterov:
            static["nesterov"] = True
        decays_itself = facts.decays if facts else "weight_decay" in _taken(own)
        if decays_itself:
            static["weight_decay"] = weight_decay
        made = _call(role, section.optimizer, own, values | static)
        if section.weight_decay and not decays_itself:
            made = optax.chain(optax.add_decayed_weights(weight_decay), made)
        if schedule is not None and (schedule.name != "none" or schedule.warmup):
            made = optax.chain(made, _by_round(role, factor(schedule, rounds)))
        return made

    return Maker(numbers, make)


def _by_round(role: str, at: Callable[[Any], Array]) -> optax.GradientTransformation:
    """A client is told the round; the server's optimizer steps once a round and counts."""
    return scale_by_round(at) if role == "client" else optax.scale_by_schedule(at)


def _taken(own: Any) -> dict[str, Any]:
    return {} if own is None else dict(inspect.signature(own).parameters)


def _call(role: str, name: str, own: Any, values: dict[str, Any]) -> Any:
    if own is None:
        return getattr(optax, name)(**values)
    taken = _taken(own)
    is_open = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    for key in () if is_open else values.keys() - taken.keys():
        takes = ", ".join(taken) or "nothing"
        raise InputError(f"{role}.{key}", values[key], f"is not taken by {name}: it takes {takes}")
    made = own(**values)
    if not hasattr(made, "init") or not hasattr(made, "update"):
        remedy = f"must return an optax transformation, and returned a {type(made).__name__}"
        raise InputError(f"{role}.optimizer", name, remedy)
    return made


def factor(schedule: Schedule, rounds: int) -> Callable[[Array], Array]:
    """The factor of each round, which counts from 0.

    Args:
      schedule: validated.
      rounds: R; `cosine` reaches its `final` in round R - 1.
    """

    def at(index: Array) -> Array:
        if schedule.name == "cosine":
            done = jnp.minimum(index / max(rounds - 1, 1), 1.0)
            final = schedule.final or 0.0
            value = final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        elif schedule.name == "exponential":
            value = jnp.power(schedule.rate or 1.0, index)
        elif schedule.name == "step":
            value = jnp.power(schedule.rate or 1.0, index // (schedule.every or 1))
        else:
            value = jnp.ones(())
        return value * jnp.minimum((index + 1) / max(schedule.warmup, 1), 1.0)

    return at
