"""Probe a run's models: what kind of point has training come to, globally and per client."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedjax_sim.core.checks import InputError, choice, integer
from fedjax_sim.core.types import Model
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.diagnostics.client_curvature import ClientCurvature, Prober, client_prober
from fedjax_sim.diagnostics.critical import judge
from fedjax_sim.diagnostics.critical_answer import Critical, Tolerances
from fedjax_sim.diagnostics.curvature import Landscape, landscape
from fedjax_sim.experiment import critical_folder as folders
from fedjax_sim.experiment import files
from fedjax_sim.experiment.cache_dir import keeping_programs
from fedjax_sim.experiment.critical_folder import Ground, Stop

RESULT, PICTURE = "probe.json", "probe.png"
SPLITS = ("train", "test")
CLIENTS = "clients"

OnProbe = Callable[[str, str, int, int], None]
"""`(which model, what is done, done, most)`, most 0 where it is not known."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """How a model is probed.

    Attributes:
      split: `train`, the objective that is trained, or `test`.
      weighting: `examples` or `uniform`.
      steps: blocks of Lanczos at most.
      block: vectors a block.
      clients: how many clients are probed on their own; None for all, 0 for none.
      client_steps: products a client.
      float64: compute in float64.
      seed: of all random directions.
      batch_size: examples a step.
      tolerances: when a number counts as zero.
    """

    split: str = "train"
    weighting: str = "examples"
    steps: int = 40
    block: int = 8
    clients: int | None = 10
    client_steps: int = 12
    float64: bool = True
    seed: int = 0
    batch_size: int = 256
    tolerances: Tolerances = Tolerances()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        choice("split", self.split, SPLITS)
        for name in ("steps", "block", "client_steps", "batch_size"):
            integer(name, getattr(self, name), least=1)
        integer("seed", self.seed, least=0, most=2**32 - 1)
        if self.clients is not None:
            integer("clients", self.clients, least=0)


@dataclasses.dataclass(frozen=True)
class Point:
    """What was found at one of a run's models.

    Attributes:
      name: `round 40` or `final`.
      round: rounds done, or None where it is not said.
      critical: the answer for the federated objective.
      clients: the clients' own, or None.
    """

    name: str
    round: int | None
    critical: Critical
    clients: ClientCurvature | None

    def facts(self) -> dict[str, Any]:
        """JSON-ready."""
        clients = None if self.clients is None else self.clients.facts()
        found = {"name": self.name, "round": self.round, **self.critical.facts()}
        return found if clients is None else found | {"clients": clients}


@keeping_programs()
def probe_run(
    folder: str | Path,
    *,
    round: int | None = None,
    all_rounds: bool = False,
    how: Probe = Probe(),
    task: Any = None,
    federation: Federation | None = None,
    write: bool = True,
    on_probe: OnProbe = lambda name, what, done, most: None,
) -> list[Point]:
    """Say what kind of point a run's models are; leaves `probe.json` and `probe.png`.

    Rounds that were probed before in the same way stay in the two files beside the new ones.

    Args:
      folder: a run's.
      round: which checkpoint; by default the final model, or the newest checkpoint.
      all_rounds: all checkpoints and the final model.
      how: steps, precision, clients.
      task: of a run made in Python, whose `config.toml` does not say it.
      federation: likewise.
      write: leave the two files.
      on_probe: told of progress.

    Returns:
      A `Point` a model, oldest first.

    Raises:
      InputError: no run, no such round, a model that is not finite.

    Cost: see `diagnostics.critical.critical_point` and `diagnostics.client_curvature`, a model.
    """
    out = Path(folder)
    if round is not None and all_rounds:
        raise InputError("round", round, "is not given beside all rounds")
    wanted = folders.chosen(out, round_=round, every=all_rounds)
    if write:
        files.check_writable(out)
    points: list[Point] = []
    with folders.wide(how.float64):
        ground = folders.ground_of(out, float64=how.float64, task=task, federation=federation)
        with _drawn(out, points, write=write):
            look = _looker(ground, how, on_probe)
            for stop in wanted:
                points.append(look(stop))
                if write:
                    _write(out, points, how)
    return points


def _looker(ground: Ground, how: Probe, on_probe: OnProbe) -> Callable[[Stop], Point]:
    """A function that probes one model after another; programs are compiled for the first.

    Data that change with the round are those of a model's last round: programs are compiled
    once a stage.
    """
    data = folders.split_of(ground.federation, how.split)
    many = _clients(how, int((data.sizes > 0).sum()))
    fresh = jax.jit(ground.task.init)(jax.random.key(how.seed))
    shared = ("batch_size", "seed")
    options: dict[str, Any] = {n: getattr(how, n) for n in shared}
    made: dict[int, tuple[Landscape, Prober | None]] = {}

    def prepare(model: Model, data: Shards) -> tuple[Landscape, Prober | None]:
        here = landscape(ground.task, model, data, weighting=how.weighting, **options)
        if not many:
            return here, None
        return here, client_prober(
            ground.task,
            model,
            data,
            tolerances=how.tolerances,
            clients=many,
            steps=how.client_steps,
            measured=here.measured,
            **options,
        )

    def look(stop: Stop) -> Point:
        model = ground.read(stop)
        last = folders.last_round(stop, data)
        stage = data.stage(last)
        if stage not in made:
            made.clear()
            made[stage] = prepare(model, data.at(last))
        here, clients = made[stage][0].move(model), made[stage][1]
        found = judge(
            here,
            fresh=fresh,
            steps=how.steps,
            block=how.block,
            tolerances=how.tolerances,
            seed=how.seed,
            on_step=lambda what, done, most: on_probe(stop.name, what, done, most),
        )
        if clients is None:
            return Point(stop.name, stop.round, found, None)
        on_probe(stop.name, CLIENTS, 0, many)
        rows = clients(
            model,
            here.slope(here.point)[1],
            found.scales,
            lambda done, most: on_probe(stop.name, CLIENTS, done, most),
        )
        return Point(stop.name, stop.round, found, rows)

    return look


def _clients(how: Probe, able: int) -> int:
    """How many clients to probe, of those that hold examples."""
    if how.clients is None:
        return able
    if how.clients > able and how.clients != Probe().clients:
        remedy = f"must be at most {able}, the clients that hold examples"
        raise InputError("clients", how.clients, remedy)
    return min(how.clients, able)


@contextmanager
def _drawn(out: Path, points: Sequence[Point], *, write: bool) -> Generator[None]:
    """Draw what there is at the end, also when interrupted."""
    try:
        yield
    finally:
        if write and points:
            from fedjax_sim.experiment.critical_plots import picture

            figure = picture(read(out)["points"], _title(out))
            figure.savefig(out / PICTURE, dpi=150)
            figure.clear()


def _title(out: Path) -> str:
    return out.resolve().name


def _write(out: Path, points: Sequence[Point], how: Probe) -> None:
    """`probe.json` with the new points over those of the same rounds, if made the same way."""
    asked = dataclasses.asdict(how)
    before = read(out) if (out / RESULT).is_file() else {}
    new = [point.facts() for point in points]
    kept = before.get("points", []) if before.get("how") == asked else []
    names = {(p["round"], p["name"]) for p in new}
    rounds = {p["round"] for p in new if p["round"] is not None}
    old = [p for p in kept if (p["round"], p["name"]) not in names and p["round"] not in rounds]
    whole = sorted(old + new, key=lambda p: np.inf if p["round"] is None else p["round"])
    text = json.dumps({"how": asked, "points": whole}, indent=1, allow_nan=False) + "\n"
    files.write_whole(out / RESULT, text)


def read(folder: str | Path) -> dict[str, Any]:
    """What `probe_run` left: `how`, and `points` as `Point.facts` gives them.

    Raises:
      InputError: nothing there, or damaged.
    """
    path = Path(folder) / RESULT
    if not path.is_file():
        raise InputError("folder", str(folder), f"has not been probed: there is no {RESULT}")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(RESULT, str(path), f"is damaged: {error}") from error
