"""The verdict on a run: one of six names, by written rules from numbers that are shown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.diagnostics.beside import beside
from fedjax_sim.diagnostics.causes import cause_of
from fedjax_sim.diagnostics.evidence import of_loss
from fedjax_sim.diagnostics.rules import FEWEST, rule
from fedjax_sim.diagnostics.sentences import sentence_of
from fedjax_sim.diagnostics.series import Sketch, sketch_of

_LOSSES = ("train_loss", "loss", "test_loss", "client_loss_mean")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a run, or is becoming.

    Attributes:
      name: one of `rules.NAMES`.
      sentence: the same for a person, with the numbers that decided.
      cause: the likeliest cause.
      remedy: what to try.
      confidence: in [0.5, 1]: how far the deciding number is from the line that it would have
        to cross; no probability.
      evidence: the numbers, by name (see `evidence.py`, `swings.py` and
        `beside.py`).
    """

    name: str
    sentence: str
    cause: str
    remedy: str
    confidence: float
    evidence: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: numbers that are not finite are None."""
        table = dataclasses.asdict(self)
        numbers = {k: v if math.isfinite(v) else None for k, v in self.evidence.items()}
        return table | {"evidence": numbers}


def verdict(
    series: Mapping[str, Any],
    *,
    loss: str | None = None,
    floor: float | None = None,
    higher_is_better: bool | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Verdict:
    """Judge a run by its series.

    Args:
      series: by name, each a `Sketch` or values `[R]` (None or NaN where there is none). The
        loss is judged; `update_norm`, `step_norm`, `step_cosine`, `gradient_norm`, `test_loss`
        and others join the evidence where they are there.
      loss: which of them is the loss. When None, `test_loss` if it was measured on at least 10
        rounds and half of those of `train_loss`; else the first of `train_loss`, `loss`,
        `test_loss`, `client_loss_mean`, an accuracy.
      higher_is_better: whether it is no loss but an accuracy, whose best is 1 (or 100); when
        None, a name with `acc` in it is.
      floor: the lowest value that the loss can have (0 for cross entropy and squared errors),
        or None where that is not known.
      facts: what is known of the run; see `causes.cause_of`.

    Returns:
      `Verdict`.

    Raises:
      InputError: where there is no such series, or a series is no numbers.

    Cost: some milliseconds whatever R is; O(M^2).
    """
    sketches = {n: s if isinstance(s, Sketch) else sketch_of(s) for n, s in series.items()}
    name = loss if loss is not None else _loss_name(sketches, floor)
    if name not in sketches:
        raise InputError("loss", name, f"must be one of: {', '.join(series)}")
    higher = is_accuracy(name) if higher_is_better is None else higher_is_better
    main = sketches[name]
    if higher:
        main, floor = _mirrored(main), 0.0 if floor is None else floor
    numbers = of_loss(main, floor, start=_start(sketches, name))
    numbers |= beside(sketches, floor)
    ruling = rule(numbers)
    cause = cause_of(ruling.name, numbers, facts or {})
    return Verdict(
        name=ruling.name,
        sentence=sentence_of(ruling.name, numbers),
        cause=cause.cause,
        remedy=cause.remedy,
        confidence=1 - 0.5 * math.exp(-max(ruling.margin, 0.0)),
        evidence=numbers,
    )


def _loss_name(sketches: Mapping[str, Sketch], floor: float | None) -> str:
    """Which series to judge when nobody says.

    A `train_loss` is the mean along the clients' own steps on their own data: with many local
    steps it lies below the objective that the server minimizes. A `test_loss` is of the global
    model, so it is judged where there is enough of it.
    """
    known = [n for n in _LOSSES if n in sketches] or [n for n in sketches if is_accuracy(n)]
    if not known:
        given = ", ".join(sketches) or "nothing"
        raise InputError("series", given, f"must hold one of: {', '.join(_LOSSES)}, an accuracy")
    train, test = sketches.get("train_loss"), sketches.get("test_loss")
    if train is None or test is None or test.seen < FEWEST:
        return known[0]
    below = floor is not None and float(train.last) < floor
    return "test_loss" if below or 2 * test.seen >= train.seen else known[0]


def _start(sketches: Mapping[str, Sketch], name: str) -> float | None:
    """Where the run began by the other of train and test loss, if it has both."""
    other = sketches.get({"train_loss": "test_loss", "test_loss": "train_loss"}.get(name, ""))
    return float(other.first) if other is not None and other.seen else None


def is_accuracy(name: str) -> bool:
    """Whether a series of this name is better the higher it is."""
    return "acc" in name.lower()


def _mirrored(sketch: Sketch) -> Sketch:
    """An accuracy as a loss: what it lacks to the best."""
    top = 1.0 if not sketch.seen or np.max(sketch.high) <= 1 else 100.0
    filled = np.asarray(sketch.n) > 0
    return sketch._replace(
        first=top - sketch.first,
        last=top - sketch.last,
        before=top - sketch.before,
        mean=np.where(filled, top - np.asarray(sketch.mean), 0.0),
        low=top - np.asarray(sketch.high),
        high=top - np.asarray(sketch.low),
    )
