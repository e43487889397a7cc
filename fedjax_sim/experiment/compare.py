"""`compare`: which of several settings converges faster, better, steadier, or at all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedjax_sim.core.checks import InputError, number
from fedjax_sim.diagnostics import compare as statistics
from fedjax_sim.diagnostics.compare import Contestant, Effect
from fedjax_sim.diagnostics.targets import DIVERGED, Target, default_target
from fedjax_sim.experiment.compare_groups import Named, distinct_names
from fedjax_sim.experiment.compare_notes import notes_on
from fedjax_sim.experiment.compare_read import read
from fedjax_sim.experiment.compare_source import VIRTUAL, WALL
from fedjax_sim.experiment.direction import better
from fedjax_sim.experiment.sweep_records import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 100


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
      metric: what was compared.
      sign: 1 where more of it is better, -1 where less is.
      target: its value, and where it comes from.
      level: of confidence.
      clock: `wall_time_s` or `virtual_time_s`, behind `seconds`.
      horizon: rounds up to which a target counts as reached; infinity where all reached it.
      contestants: the curves; the first is the baseline.
      rows: one dict a contestant: `name`, `runs`, `seeds`, `reached`, `not_reached`, `unknown`,
        `diverged`, `best`, `variance`, `sign_changes`, `verdict` where runs have one, and
        `M`, `M_low`, `M_high` of each measure M.
      effects: one dict a measure and contestant: `effect` (`faster`, `better`, `steadier`,
        `feasible`), `measure`, `contestant`, its own `value`, `low`, `high`, `n`, whether that
        is a lower `bound`, the `kind` (`ratio` or `difference`) of `against`, `against_low`,
        `against_high`, the pairs behind it, whether they are `paired` by seed, the `word`, `why`.
      notes: what a person should know before believing it.
    """

    metric: str
    sign: int
    target: Target
    level: float
    clock: str
    horizon: float
    contestants: tuple[Contestant, ...] = dataclasses.field(repr=False)
    rows: list[dict[str, Any]] = dataclasses.field(repr=False)
    effects: list[dict[str, Any]] = dataclasses.field(repr=False)
    notes: tuple[str, ...] = dataclasses.field(repr=False)

    @property
    def names(self) -> list[str]:
        """The contestants, the baseline first."""
        return [c.name for c in self.contestants]

    def find(self, measure: str, contestant: str) -> dict[str, Any]:
        """The entry of `effects` of a measure, such as `rounds`, and a contestant.

        Raises:
          InputError: there is none.
        """
        for effect in self.effects:
            if effect["measure"] == measure and effect["contestant"] == contestant:
                return effect
        known = list(dict.fromkeys(e["measure"] for e in self.effects))
        remedy = f"must be one of {', '.join(known)} and one of {', '.join(self.names)}"
        raise InputError("measure, contestant", f"{measure}, {contestant}", remedy)

    def table(self, width: int = _WIDTH) -> str:
        """The effects, the rest of the figures and the notes as plain text."""
        from fedjax_sim.experiment.compare_table import text

        return text(self, width)

    def plot(self) -> Figure:
        """Mean curves and the four effects as a matplotlib figure; opens no window."""
        from fedjax_sim.experiment.compare_plots import picture

        return picture(self)

    def as_json(self) -> dict[str, Any]:
        """All of it but the curves, ready for `json.dumps`."""
        head = {"metric": self.metric, "target": self.target.value, "origin": self.target.origin}
        horizon = self.horizon if math.isfinite(self.horizon) else None
        head |= {"level": self.level, "clock": self.clock, "horizon_rounds": horizon}
        body = {"rows": self.rows, "effects": self.effects, "notes": list(self.notes)}
        return head | {"baseline": self.names[0]} | body


def compare(
    *contestants: Any,
    target: float | None = None,
    metric: str | None = None,
    names: Sequence[str] | None = None,
    level: float = 0.95,
) -> Comparison:
    """Compare how settings converge, seed by seed; the first is the baseline.

    Faster: rounds, bytes and seconds to the target, where the running best meets it, between
    evaluations by interpolation. Better: the end level, the mean of the last tenth. Steadier:
    the largest drop below the best so far, and the spread about a straight line, in the last
    third. Feasible: the share of seeds that reach the target.

    Each is set against the baseline as a ratio of geometric means or a difference of means with
    a t interval over the seeds that both have; shares with Newcombe's. A word follows from the
    interval: `better`, `worse`, `no difference shown`; with one seed `cannot say`.

    Args:
      *contestants: each a folder of a run, of runs (grouped by all but their seed), or of a sweep
        (its settings are contestants); a `Run`, a `Sweep`, records, or a list of runs.
      target: to be reached. None: the worst contestant's median end level.
      metric: such as `test_accuracy`; the most telling one that all have by default. Whether
        more is better is told by the name; `"+f1"` and `"-energy"` say it for others.
      names: of the contestants, in order.
      level: of confidence of each interval.

    Returns:
      A `Comparison`.

    Raises:
      InputError: no such folder, no run in it, a metric that one of them lacks.
    """
    number("level", level, above=0, below=1)
    groups: list[Named] = []
    notes: list[str] = []
    for i, given in enumerate(contestants):
        found, more = read(given, i + 1)
        groups += found
        notes += more
    groups = _renamed(groups, names)
    if len(groups) < 2:
        remedy = "must be two or more: the first is the baseline"
        raise InputError("contestants", ", ".join(g.name for g in groups) or "(nothing)", remedy)
    name, sign = _metric(groups, metric)
    clock = VIRTUAL if all(VIRTUAL in s.columns for g in groups for s in g.sources) else WALL
    curves = tuple(
        Contestant(g.name, tuple(s.course(name, clock) for s in g.sources)) for g in groups
    )
    aim = _target(curves, name, sign, target)
    found = statistics.compare(curves, aim.value, sign, level=level)
    rows = [row | _verdicts(g) for row, g in zip(found.rows, groups, strict=True)]
    return Comparison(
        metric=name,
        sign=sign,
        target=aim,
        level=level,
        clock=clock,
        horizon=found.horizon,
        contestants=curves,
        rows=rows,
        effects=[_told(e) for e in found.effects],
        notes=tuple(notes + notes_on(groups, curves, found, clock)),
    )


def _renamed(groups: Sequence[Named], names: Sequence[str] | None) -> list[Named]:
    if names is not None:
        if isinstance(names, str) or len(names) != len(groups):
            found = ", ".join(g.name for g in groups)
            remedy = f"must be a name for each of the {len(groups)} contestants: {found}"
            raise InputError("names", names if isinstance(names, str) else list(names), remedy)
        if len(set(names)) < len(names):
            raise InputError("names", list(names), "must be distinct")
    shown = distinct_names(groups) if names is None else list(names)
    return [g._replace(name=name) for g, name in zip(groups, shown, strict=True)]


def _metric(groups: Sequence[Named], asked: str | None) -> tuple[str, int]:
    """The metric and which way it is better."""
    # Runs that all diverged before they were evaluated measured nothing: they never reach.
    groups = [g for g in groups if any(s.ended != DIVERGED for s in g.sources)] or groups
    has = [list(dict.fromkeys(n for s in g.sources for n in s.metrics())) for g in groups]
    if asked is not None:
        name, sign = asked, better(asked)
        if asked[:1] in ("+", "-"):
            name, sign = asked[1:], 1 if asked[0] == "+" else -1
        for group, there in zip(groups, has, strict=True):
            if name not in there:
                remedy = f"{group.name} has none; it has: {', '.join(_judged(there) or there)}"
                raise InputError("metric", asked, remedy)
        if sign == 0:
            remedy = f"does not tell whether more or less is better: say +{name} or -{name}"
            raise InputError("metric", asked, remedy)
        return name, sign
    common = [n for n in _judged(has[0]) if all(n in there for there in has)]
    if not common:
        told = "; ".join(
            f"{g.name} has {', '.join(_judged(there)) or 'none'}"
            for g, there in zip(groups, has, strict=True)
        )
        raise InputError("metric", "(nothing)", f"the contestants have none in common: {told}")
    return common[0], better(common[0])


def _judged(names: Sequence[str]) -> list[str]:
    """Metrics whose name tells which way is better, the most telling first."""
    able = [n for n in names if better(n)]
    return [n for n in METRICS if n in able] + sorted(set(able).difference(METRICS))


def _target(curves: Sequence[Contestant], metric: str, sign: int, asked: float | None) -> Target:
    if asked is None:
        found = default_target(curves, sign)
        assert found is not None
        return found
    number("target", asked)
    if "accuracy" in metric and not 0 < asked <= 1:
        raise InputError("target", asked, f"must be above 0 and at most 1 for {metric}")
    return Target(float(asked), "as asked")


def _verdicts(group: Named) -> dict[str, Any]:
    """`verdict`: how many runs ended with which one, most frequent first."""
    found: dict[str, int] = {}
    for source in group.sources:
        verdict = source.facts.get("verdict")
        name = verdict.get("name", verdict.get("verdict")) if isinstance(verdict, dict) else verdict
        if isinstance(name, str):
            found[name] = found.get(name, 0) + 1
    ordered = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    return {"verdict": dict(ordered)} if ordered else {}


def _told(effect: Effect) -> dict[str, Any]:
    """An effect as plain, JSON-ready values."""
    own, against = effect.own, effect.against
    row: dict[str, Any] = {
        "effect": effect.effect,
        "measure": effect.measure,
        "contestant": effect.contestant,
        "value": own.value,
        "low": own.low,
        "high": own.high,
        "n": own.n,
        "bound": effect.bound,
        "kind": effect.kind,
        "against": against.value,
        "against_low": against.low,
        "against_high": against.high,
        "pairs": against.n,
        "paired": against.paired,
        "word": effect.word,
        "why": effect.why,
    }
    return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in row.items()}
