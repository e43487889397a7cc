"""What a sweep runs: seeds times settings, the settings grouped by what one program can hold."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.experiment.prepare import Prepared

_MOST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point of the grid.

    Attributes:
      values: what was varied, as the user named it.
      hyper: the recipe's numbers at this point.
    """

    values: dict[str, Any]
    hyper: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Group:
    """Settings that share shapes and static values: one compiled program.

    Attributes:
      prepared: bound to one device, with the group's first setting.
      settings: which of the design's settings, by position.
      facts: JSON-ready values that say what the group is.
    """

    prepared: Prepared
    settings: tuple[int, ...]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Design:
    """All runs of a sweep. Run `i` is setting `i // len(seeds)` with seed `i % len(seeds)`.

    Attributes:
      settings: the grid's points in order, the first varied name slowest.
      seeds: distinct.
      groups: cover every setting once.
      varied: the names that were varied.
    """

    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    groups: tuple[Group, ...]
    varied: tuple[str, ...]

    @property
    def n_runs(self) -> int:
        """Seeds times settings."""
        return len(self.settings) * len(self.seeds)

    def run(self, setting: int, seed: int) -> int:
        """The index of a run, from the positions of its setting and its seed."""
        return setting * len(self.seeds) + seed

    def facts(self, run: int) -> dict[str, Any]:
        """`run`, `seed` and the varied values of a run."""
        setting, seed = divmod(run, len(self.seeds))
        return {"run": run, "seed": self.seeds[seed], **self.settings[setting].values}


def as_seeds(given: Any, first: int = 0) -> tuple[int, ...]:
    """Seeds from a number of them, or from a list.

    Args:
      given: a number n, for `first .. first + n - 1`, or a list of distinct seeds.
      first: where counting starts.

    Raises:
      InputError: neither, an empty list, or a seed that is given twice.
    """
    if isinstance(given, Sequence) and not isinstance(given, str):
        seeds = tuple(integer("seeds", seed, least=0, most=_MOST_SEED) for seed in given)
        if not seeds or len(set(seeds)) != len(seeds):
            raise InputError("seeds", list(given), "must be a list of distinct seeds")
        return seeds
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise InputError("seeds", given, "must be a number of seeds, or a list such as [0, 1, 2]")
    return tuple(range(first, integer("seeds", first + given, most=_MOST_SEED + 1)))


def grid(varied: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations of the values, the first name slowest.

    Raises:
      InputError: no list, an empty one, or a value that is given twice.
    """
    for name, values in varied.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise InputError(name, values, "must be a list of values, such as [0.03, 0.1, 0.3]")
        if any(v == w and type(v) is type(w) for v, w in itertools.combinations(values, 2)):
            raise InputError(name, list(values), "must have no value twice")
    points = itertools.product(*varied.values())
    return [dict(zip(varied, point, strict=True)) for point in points]


def numeric_settings(recipe: Recipe, varied: Mapping[str, Sequence[float]]) -> tuple[Setting, ...]:
    """Settings of a grid of the recipe's traced numbers.

    Raises:
      InputError: a name that the recipe does not trace, or a value that is no number.
    """
    for name, values in varied.items():
        if name not in recipe.hyper:
            known = ", ".join(sorted(recipe.hyper))
            remedy = f"{recipe.name} can vary: {known}" if known else _constants(recipe)
            raise InputError(f"hyper.{name}", list(values), remedy)
    points = grid(varied)
    for point in points:
        for name, value in point.items():
            number(f"hyper.{name}", value)
    base = {name: float(value) for name, value in recipe.hyper.items()}
    return tuple(Setting(p, base | {n: float(v) for n, v in p.items()}) for p in points)


def _constants(recipe: Recipe) -> str:
    name = recipe.name if recipe.name != "custom" else "fedavg"
    return (
        f"{recipe.name} has its numbers built in; give the optimizer as a function and its "
        f"numbers by name: {name}(lambda lr: optax.sgd(lr), lr=0.1)"
    )
