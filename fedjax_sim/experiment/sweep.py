"""`sweep`: seeds times numbers of a recipe, as one program."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedjax_sim.core.checks import InputError, number
from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Model
from fedjax_sim.data.federated import Federation
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.experiment.cache_dir import keeping_programs
from fedjax_sim.experiment.prepare import prepare
from fedjax_sim.experiment.report import duration
from fedjax_sim.experiment.settings import UNWATCHED, Settings
from fedjax_sim.experiment.sweep_design import Design, Group, as_seeds, numeric_settings
from fedjax_sim.experiment.sweep_folder import SweepFolder
from fedjax_sim.experiment.sweep_plan import MOST_CHUNK, SweepPlan
from fedjax_sim.experiment.sweep_progress import OnProgress, SweepProgress
from fedjax_sim.experiment.sweep_result import Sweep
from fedjax_sim.experiment.sweep_session import SweepSession


@keeping_programs()
def sweep(
    recipe: Recipe,
    task: Any,
    federation: Federation,
    *,
    hyper: Mapping[str, Sequence[float]] | None = None,
    seeds: int | Sequence[int] = 4,
    cohort: int | None = None,
    rounds: int = 100,
    out: str | Path | None = None,
    init: Model | None = None,
    sampler: Sampler | None = None,
    progress: bool | OnProgress = False,
    inner: str = "auto",
    eval_every: int = 1,
    eval_batch_size: int = 256,
    client_eval: bool = True,
    lanes: int | None = None,
    devices: int | None = None,
    lowering: bool = True,
    float64: bool = False,
    stragglers: float = 0.0,
    drop_stragglers: bool = False,
) -> Sweep:
    """Train a recipe with several seeds and values of its numbers, as one compiled program.

    Each run is what `run` gives with that seed, those numbers, the same lanes and one device:
    bitwise where runs follow one another (`inner="map"`; on jax 0.12 within an ulp or so), but for
    percentiles over clients, whose last bit may differ; within rounding where they run together.

    Args:
      recipe: the algorithm, its numbers given by name, such as
        `algorithms.fedavg(lambda lr: optax.sgd(lr), lr=0.1)`.
      task: see `run`.
      federation: see `run`.
      hyper: values of the recipe's numbers, such as `{"lr": [0.03, 0.1, 0.3]}`; all
        combinations are run. None: only seeds.
      seeds: how many (0, 1, ...), or which.
      cohort: see `run`.
      rounds: see `run`.
      out: the sweep's folder; the same call again goes on with it. None writes nothing.
      init: a model that every run starts from.
      sampler: see `run`.
      progress: True prints a line to stderr; or a function of `SweepProgress`.
      inner: how a device runs its share. `map`: one run after another. `hyper`: the settings
        of a seed together. `vmap`: all together. `auto`: by platform and model size. `probe`:
        whichever a short timing finds fastest.
      eval_every: see `Settings`, like all that follow.
      eval_batch_size: examples an evaluation step.
      client_eval: evaluate on clients' own test examples.
      lanes: clients of a run at the same time.
      devices: that runs are dealt to; None: all.
      lowering: rewrite slow operations of the local step.
      float64: compute in float64.
      stragglers: chance that a member is a straggler.
      drop_stragglers: stragglers are absent.

    Returns:
      A `Sweep`.

    Raises:
      InputError: naming the field; nothing was written.
      SweepInterrupted: on Ctrl-C or SIGTERM; what had finished is kept.

    Cost: data once a device; a state and R records for each run under way.
    """
    settings = Settings(
        rounds=rounds,
        cohort=cohort,
        eval_every=eval_every,
        eval_batch_size=eval_batch_size,
        client_eval=client_eval,
        lanes=lanes,
        devices=1,
        lowering=lowering,
        float64=float64,
        stragglers=stragglers,
        drop_stragglers=drop_stragglers,
        chunk=min(rounds, MOST_CHUNK),
        diagnosis=UNWATCHED,
    )
    given: Any = recipe
    if not isinstance(given, Recipe):
        remedy = "must be a recipe such as algorithms.fedavg(lambda lr: optax.sgd(lr), lr=0.1)"
        raise InputError("recipe", type(recipe).__name__, remedy)
    if devices is not None:
        number("devices", devices, least=1)
    chosen = as_seeds(seeds)
    points = numeric_settings(recipe, dict(hyper or {}))
    folder = None if out is None else SweepFolder(Path(out))
    settings = dataclasses.replace(settings, seed=chosen[0], lanes=lanes or _lanes(folder))
    first = points[0].hyper
    with _precision(settings):
        prepared = prepare(
            recipe, task, federation, settings, init=init, sampler=sampler, hyper=first
        )
    group = Group(prepared, tuple(range(len(points))))
    design = Design(points, chosen, (group,), tuple(hyper or {}))
    text = _Text(design, dict(hyper or {}))
    session = SweepSession(design, text=text, folder=folder, inner=inner, devices=devices)
    return session.run(listener(progress))


def listener(progress: bool | OnProgress) -> OnProgress | None:
    """A function of `SweepProgress` from what `progress=` takes."""
    if callable(progress):
        return progress
    return _print_line if progress else None


def _lanes(folder: SweepFolder | None) -> int | None:
    """The lanes that a folder's sweep began with."""
    if folder is None or folder.found is None:
        return None
    return folder.found["group"][0].get("lanes")


def _precision(settings: Settings) -> Any:
    import contextlib

    import jax

    return jax.enable_x64(True) if settings.float64 else contextlib.nullcontext()


def _print_line(now: SweepProgress) -> None:
    text = f"{now.done}/{now.runs} runs  {now.phase}"
    if now.seconds_left is not None and now.phase == "running":
        text += f"  {now.runs_per_second:.3g} runs/s  {duration(now.seconds_left)} left"
    print(f"\r{text:<80}", end="\n" if now.phase == "done" else "", file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class _Text:
    """The text of `sweep.toml` of a sweep that was made in Python."""

    design: Design
    varied: dict[str, Sequence[float]]

    def __call__(self, identity: str, plans: list[SweepPlan | None]) -> str:
        import tomli_w

        group = self.design.groups[0]
        p, plan = group.prepared, plans[0]
        assert plan is not None
        settings = dataclasses.asdict(p.settings)
        for name in ("seed", "chunk", "lanes", "devices"):
            del settings[name]
        table = {
            "sweep": {"identity": identity, "seeds": list(self.design.seeds)},
            "algorithm": {"name": p.name, "hyper": {n: float(v) for n, v in p.hyper.items()}},
            "vary": {n: [float(v) for v in values] for n, values in self.varied.items()},
            "run": {n: v for n, v in settings.items() if v is not None},
            "group": [{"lanes": p.plan.lanes, "plan": kept_plan(plan)}],
        }
        head = "# Made in Python: task and data are in the script that called sweep().\n"
        return head + tomli_w.dumps(table)


def kept_plan(plan: SweepPlan) -> dict[str, Any]:
    """What a sweep that goes on must keep: the rest touches speed only."""
    return {"inner": plan.inner, "width": plan.width}
