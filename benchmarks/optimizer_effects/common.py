"""What every effect needs: data, arms that are measured and tuned alike, claims that are judged."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import fedjax_sim as fs
from optimizer_effects.intervals import Interval, interval, rounds_to

SEEDS, TUNING_SEEDS = (0, 1, 2, 3, 4), (10, 11, 12)
AGREES, DISAGREES, UNDECIDED = "agrees", "disagrees", "not shown"


@dataclasses.dataclass(frozen=True)
class Bench:
    """How the effects are run.

    Attributes:
      data: `digits`, or `mnist` (6,000 of its examples, 2,000 test examples).
      quick: a few rounds and seeds, to see that all of it works; verdicts mean nothing.
    """

    data: str = "digits"
    quick: bool = False

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that are reported."""
        return SEEDS[:2] if self.quick else SEEDS

    @property
    def tuning_seeds(self) -> tuple[int, ...]:
        """Other seeds, on which an arm's numbers are chosen."""
        return TUNING_SEEDS[:1] if self.quick else TUNING_SEEDS

    def rounds(self, full: int) -> int:
        """R of an arm that takes `full` rounds."""
        return min(full, 6) if self.quick else full

    def federation(self, partition: Any, *, test_fraction: float = 0.0) -> Any:
        """The examples, dealt out by `partition`."""
        if self.data == "digits":
            return fs.data.digits(partition, test_fraction=test_fraction)
        everything = fs.data.mnist(fs.partition.iid(clients=1))
        assert everything.central_test is not None
        x, y = everything.train.x[:6000], everything.train.y[:6000]
        test = tuple(part[:2000] for part in everything.central_test)
        return fs.data.from_arrays(
            x, y, partition, test=test, test_fraction=test_fraction, n_classes=10, name="mnist"
        )


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
      label: for tables and pictures.
      recipe: its numbers named.
      model: what is trained.
      federation: the data.
      rounds: R.
      cohort: K.
      grid: values of the recipe's numbers; all combinations are tried on the tuning seeds.
      score: `(curves {name: [n, R]}) -> [n]`, the least is best; what the arm is tuned for.
    """

    label: str
    recipe: Any
    model: Any
    federation: Any
    rounds: int
    cohort: int
    grid: dict[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    score: Callable[[dict[str, np.ndarray]], np.ndarray] | None = None


class Measured(NamedTuple):
    """An arm's runs.

    Attributes:
      arm: what was run.
      chosen: its numbers.
      tried: settings that the choice was made among.
      curves: `{name: [seeds, R]}` of the chosen setting on the reported seeds.
      at: `{values: curves}` of every setting, on the reported seeds.
      edge: whether a chosen number lies at the end of its grid.
    """

    arm: Arm
    chosen: dict[str, float]
    tried: int
    curves: dict[str, np.ndarray]
    at: dict[tuple[float, ...], dict[str, np.ndarray]]
    edge: bool


def measure(arm: Arm, bench: Bench) -> Measured:
    """Run an arm: every setting on all seeds as one program; choose on the tuning seeds."""
    points = list(itertools.product(*arm.grid.values()))
    tunes = len(points) > 1
    seeds = [*bench.seeds, *(bench.tuning_seeds if tunes else ())]
    task = fs.tasks.classifier(arm.model, classes=10)
    sweep = fs.sweep(
        arm.recipe,
        task,
        arm.federation,
        hyper=arm.grid or None,
        seeds=seeds,
        cohort=arm.cohort,
        rounds=arm.rounds,
        client_eval=arm.federation.test is not None,
    )
    seed = np.array([record["seed"] for record in sweep.records])
    setting = np.array([record["setting"] for record in sweep.records])

    def of(index: int, among: Sequence[int]) -> dict[str, np.ndarray]:
        rows = [int(np.flatnonzero((seed == s) & (setting == index))[0]) for s in among]
        return {name: values[rows] for name, values in sweep.curves.items()}

    best = 0
    if tunes:
        assert arm.score is not None
        scores = [float(np.mean(arm.score(of(i, bench.tuning_seeds)))) for i in range(len(points))]
        best = int(np.argmin(scores))
    chosen = dict(zip(arm.grid, points[best], strict=True))
    edge = any(
        len(values) > 2 and chosen[n] in (min(values), max(values))
        for n, values in arm.grid.items()
    )
    at = {point: of(i, bench.seeds) for i, point in enumerate(points)}
    numbers = ", ".join(f"{n} {v:g}" for n, v in chosen.items())
    print(f"  {arm.label}: {numbers or 'as given'}", file=sys.stderr, flush=True)
    return Measured(arm, chosen, len(points), of(best, bench.seeds), at, edge)


def to_accuracy(target: float) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Rounds to a test accuracy; a thousandth of the shortfall breaks ties."""

    def score(curves: dict[str, np.ndarray]) -> np.ndarray:
        curve = np.nan_to_num(curves["test_accuracy"], nan=0.0)
        return rounds_to(curve, target, rising=True) + 1e-3 * (1 - curve.mean(1))

    return score


def to_loss(target: float) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Rounds to a test loss; a thousandth of the mean loss breaks ties."""

    def score(curves: dict[str, np.ndarray]) -> np.ndarray:
        curve = np.nan_to_num(curves["test_loss"], nan=1e3, posinf=1e3)
        return rounds_to(curve, target, rising=False) + 1e-3 * np.minimum(curve.mean(1), 900)

    return score


def claim(
    effect: str,
    text: str,
    less: Measured,
    more: Measured,
    values: Callable[[Measured], np.ndarray],
    unit: str,
    *,
    ratio: bool = True,
    because: str = "",
    censored: float | None = None,
) -> dict[str, Any]:
    """A row: theory says that `values(less) < values(more)`, seed by seed.

    Args:
      effect: the effect it belongs to.
      text: what theory says, in words.
      less: the arm that should have the smaller value.
      more: the other.
      values: `[seeds]` of an arm.
      unit: of the values.
      ratio: whether they are compared by their ratio, or by their difference.
      because: why it need not show, for a row that does not agree.
      censored: a value that only says "not reached in as many rounds".

    Returns:
      The row: `agrees` where the 95 % interval of the paired comparison lies on the side that
      theory says, `disagrees` where it lies on the other, `not shown` where it holds both.
    """
    a, b = np.asarray(values(less), float), np.asarray(values(more), float)
    told, verdict = None, _by_failure(a, b)
    if np.isfinite(a).all() and np.isfinite(b).all():
        told = interval(np.log(a) - np.log(b)).each(np.exp) if ratio else interval(a - b)
        zero = 1.0 if ratio else 0.0
        verdict = AGREES if told.high < zero else DISAGREES if told.low > zero else UNDECIDED
    row = {
        "effect": effect,
        "theory": text,
        "unit": unit,
        "less": _side(less, a, censored),
        "more": _side(more, b, censored),
        "compared_by": "ratio" if ratio else "difference",
        "comparison": None if told is None else [round(v, 6) for v in told],
        "verdict": verdict,
    }
    if row["verdict"] != AGREES and because:
        row["because"] = because
    return row


def _by_failure(a: np.ndarray, b: np.ndarray) -> str:
    """The verdict where runs of one side blew up."""
    lost = (~np.isfinite(a)).sum() - (~np.isfinite(b)).sum()
    return AGREES if lost < 0 else DISAGREES if lost > 0 else UNDECIDED


def _side(m: Measured, values: np.ndarray, censored: float | None) -> dict[str, Any]:
    shown = interval(values) if np.isfinite(values).all() else Interval(*[float("nan")] * 3)
    side: dict[str, Any] = {
        "arm": m.arm.label,
        "setting": {n: float(v) for n, v in m.chosen.items()},
        "settings_tried": m.tried,
        "at_the_edge_of_its_grid": m.edge,
        "rounds": m.arm.rounds,
        "mean": None if np.isnan(shown.mean) else round(shown.mean, 6),
        "interval": None if np.isnan(shown.mean) else [round(v, 6) for v in shown[1:]],
        "by_seed": [round(float(v), 6) if np.isfinite(v) else None for v in values],
    }
    if censored is not None:
        side["seeds_that_reach_it"] = int((values < censored).sum())
    return side


def course(m: Measured, metric: str) -> dict[str, Any]:
    """An arm's curve for the picture: mean, least and largest over seeds."""
    curve = m.curves[metric]
    bounds = {"mean": curve.mean(0), "low": curve.min(0), "high": curve.max(0)}
    shown = {n: [None if np.isnan(x) else round(float(x), 5) for x in v] for n, v in bounds.items()}
    return {"label": m.arm.label, "metric": metric} | shown


def fixed(m: Measured, *values: float) -> Measured:
    """The same arm at one setting of its grid, instead of the chosen one."""
    chosen = dict(zip(m.arm.grid, values, strict=True))
    return m._replace(chosen=chosen, tried=1, curves=m.at[values], edge=False)
