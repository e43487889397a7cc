"""A sweep over an experiment file: every varied key, grouped by what one program can hold."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tomllib
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import tomli_w

from fedjax_sim.core.checks import InputError
from fedjax_sim.data.federated import Federation
from fedjax_sim.experiment import config
from fedjax_sim.experiment.build import Built, build, federation, make_recipe
from fedjax_sim.experiment.config import Experiment, Table
from fedjax_sim.experiment.prepare import prepare
from fedjax_sim.experiment.settings import UNWATCHED
from fedjax_sim.experiment.sweep_design import Design, Group, Setting, as_seeds, grid
from fedjax_sim.experiment.sweep_plan import MOST_CHUNK, SweepPlan

DEFAULT_SEEDS = 4
_NOT_VARIED = {
    "run.seed": "seeds are varied by --seeds",
    "run.checkpoint_every": "a sweep keeps no checkpoints",
    "run.keep_checkpoints": "a sweep keeps no checkpoints",
    "plan": "the plan changes speed only; set it for all runs",
}
_OF_THE_PLAN = ("lanes", "devices", "chunk")


class Point(NamedTuple):
    """One point of the grid.

    Attributes:
      values: `{dotted key: value}`.
      experiment: resolved with them.
      hyper: its recipe's traced numbers.
    """

    values: dict[str, Any]
    experiment: Experiment
    hyper: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Request:
    """A validated sweep over experiments; no data were read.

    Attributes:
      seeds: distinct.
      varied: `{dotted key: values}`.
      points: of the grid, in order.
      groups: positions of points that one program can hold.
      inner: how a device runs its share.
    """

    seeds: tuple[int, ...]
    varied: dict[str, list[Any]]
    points: tuple[Point, ...]
    groups: tuple[tuple[int, ...], ...]
    inner: str = "auto"

    @property
    def first(self) -> Experiment:
        """The experiment of the first point."""
        return self.points[0].experiment

    @property
    def devices(self) -> int | None:
        """That runs are dealt to; None for all."""
        devices = self.first.plan.devices
        return None if devices == "auto" else devices


def request(
    file: Table,
    overrides: Mapping[str, Any],
    varied: Mapping[str, Any],
    seeds: Any = None,
    inner: str = "auto",
) -> Request:
    """Validate every point of a sweep.

    Args:
      file: the experiment's table.
      overrides: `{dotted key: value}` for all runs.
      varied: `{dotted key: list of values}`.
      seeds: a number of them, counted from `run.seed`, or a list.
      inner: how a device runs its share.

    Raises:
      InputError: the first fault of any point.
    """
    for key in varied:
        for start, why in _NOT_VARIED.items():
            if key == start or key.startswith(f"{start}."):
                raise InputError(f"--vary {key}", varied[key], f"cannot be varied: {why}")
        if key in overrides:
            raise InputError(key, overrides[key], "is varied too; give it once")
    base = config.overrides_table(overrides)
    given = seeds is not None
    points = []
    for values in grid(varied):
        over = config.merge(base, config.overrides_table(values))
        experiment = config.resolve(file, over)
        hyper = {n: float(v) for n, v in make_recipe(experiment, {}).hyper.items()}
        points.append(Point(values, experiment, hyper))
    first = points[0].experiment.run.seed
    chosen = as_seeds(seeds if given else DEFAULT_SEEDS, first)
    lists = {k: list(v) for k, v in varied.items()}
    return Request(chosen, lists, tuple(points), _groups(points), inner)


def _groups(points: Sequence[Point]) -> tuple[tuple[int, ...], ...]:
    """Points that differ in traced numbers only share a program."""
    groups: dict[str, list[int]] = {}
    for i, point in enumerate(points):
        table = json.loads(json.dumps(point.experiment.table))
        for key in point.values:
            if is_traced(key, point.hyper):
                *sections, last = key.split(".")
                at = table
                for section in sections:
                    at = at[section]
                del at[last]
        signature = json.dumps([table, sorted(point.hyper)], sort_keys=True)
        groups.setdefault(signature, []).append(i)
    return tuple(map(tuple, groups.values()))


def is_traced(key: str, hyper: Mapping[str, float]) -> bool:
    """Whether a dotted key is one of the recipe's traced numbers.

    Example:
      >>> is_traced("client.learning_rate", {"client_learning_rate": 0.1})
      True
      >>> is_traced("client.epochs", {"client_learning_rate": 0.1})
      False
    """
    section, _, name = key.partition(".")
    if section == "algorithm":
        return name in hyper
    return section in ("client", "server") and f"{section}_{name}" in hyper


def make_design(asked: Request, lanes: Sequence[int | None] = ()) -> Design:
    """Read the data and bind every group.

    Args:
      asked: validated.
      lanes: of each group of a sweep that goes on.

    Raises:
      InputError: naming the field.
    """
    data = _Federations()
    kept = [*lanes, *[None] * (len(asked.groups) - len(lanes))]
    groups = [_group(asked, g, data, n) for g, n in zip(asked.groups, kept, strict=True)]
    settings = tuple(Setting(p.values, p.hyper) for p in asked.points)
    return Design(settings, asked.seeds, tuple(groups), tuple(asked.varied))


class _Federations:
    """Data of equal [data] tables are read once."""

    def __init__(self) -> None:
        self._made: dict[str, Federation] = {}

    def __call__(self, experiment: Experiment) -> Federation:
        key = json.dumps(experiment.table["data"], sort_keys=True)
        if key not in self._made:
            self._made[key] = federation(experiment)
        return self._made[key]


def _group(
    asked: Request, positions: tuple[int, ...], data: _Federations, lanes: int | None
) -> Group:
    point = asked.points[positions[0]]
    built = build(point.experiment, data(point.experiment))
    if built.settings.policy.acts:
        remedy = "acts on a single run: leave [policy] out of a sweep"
        raise InputError("policy", point.experiment.table["policy"], remedy)
    settings = dataclasses.replace(
        built.settings,
        diagnosis=UNWATCHED,
        seed=asked.seeds[0],
        devices=1,
        lanes=lanes or built.settings.lanes,
        chunk=min(built.settings.rounds, MOST_CHUNK),
    )
    with precision(point.experiment):
        prepared = prepare(built.recipe, built.task, built.federation, settings, hyper=point.hyper)
    return Group(prepared, positions, _facts(built, settings))


@contextlib.contextmanager
def precision(experiment: Experiment) -> Generator[None]:
    """The precision that the experiment asks for."""
    with jax.enable_x64(True) if experiment.plan.float64 else contextlib.nullcontext():
        yield


def _facts(built: Built, settings: Any) -> dict[str, Any]:
    """The resolved experiment, as it stands in `sweep.toml`, without seed and plan."""
    table = tomllib.loads(built.config_text(settings))
    for name in _OF_THE_PLAN:
        table.get("plan", {}).pop(name, None)
    del table["run"]["seed"]
    return table


@dataclasses.dataclass(frozen=True)
class SweepText:
    """The text of `sweep.toml`; `from_sweep` reads it back."""

    asked: Request
    design: Design

    def __call__(self, identity: str, plans: list[SweepPlan | None]) -> str:
        """The text, for this identity and the groups' plans."""
        groups: list[Table] = []
        for group, plan in zip(self.design.groups, plans, strict=True):
            assert plan is not None
            points = [self.asked.points[i].values for i in group.settings]
            entry: Table = {"lanes": group.prepared.plan.lanes, "settings": list(group.settings)}
            entry["values"] = points
            entry["plan"] = {"inner": plan.inner, "width": plan.width}
            groups.append(entry | {"experiment": group.facts})
        head: Table = {
            "identity": identity,
            "seeds": list(self.asked.seeds),
            "inner": self.asked.inner,
        }
        if self.asked.devices is not None:
            head["devices"] = self.asked.devices
        table = {"sweep": head, "vary": self.asked.varied, "group": groups}
        return tomli_w.dumps(table)


def from_sweep(found: Mapping[str, Any]) -> Request:
    """The request that a `sweep.toml` holds.

    Raises:
      InputError: it was made in Python, or is damaged.
    """
    head = found["sweep"]
    try:
        by_position: dict[int, Point] = {}
        groups = []
        for entry in found["group"]:
            positions, values = entry["settings"], entry["values"]
            groups.append(tuple(positions))
            for i, point in zip(positions, values, strict=True):
                by_position[i] = _point(entry["experiment"], point, head)
        points = tuple(by_position[i] for i in range(len(by_position)))
        varied, seeds = dict(found["vary"]), as_seeds(head["seeds"])
        return Request(seeds, varied, points, tuple(groups), head["inner"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("sweep.toml", repr(error), "is damaged: restore it") from error


def _point(table: Table, values: dict[str, Any], head: Mapping[str, Any]) -> Point:
    devices = {"plan": {"devices": head["devices"]}} if "devices" in head else {}
    over = config.merge(config.overrides_table(values), devices)
    experiment = config.resolve(config.merge(table, over))
    hyper = {n: float(v) for n, v in make_recipe(experiment, {}).hyper.items()}
    return Point(values, experiment, hyper)


def lanes_of(found: Mapping[str, Any] | None) -> list[int | None]:
    """The lanes of each group of a sweep that goes on."""
    return [] if found is None else [entry.get("lanes") for entry in found["group"]]
