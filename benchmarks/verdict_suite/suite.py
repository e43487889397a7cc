"""What a labelled run is, and how it is written down."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from verdict_suite.rules import DIVERGING, Course, verdict_of

TUNING, HELD_OUT = "tuning", "held_out"
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LabelledRun:
    """A run with its truth.

    Attributes:
      family: the name of its family.
      split: `tuning` or `held_out`, by family.
      params: what makes it again.
      truth: its verdict, or None where the rule leaves it out.
      truth_half: the verdict when only the first half of its records is seen, or None.
      floor: a lower bound of the objective that a user would know, or None.
      records: as in `metrics.jsonl`.
    """

    family: str
    split: str
    params: dict[str, Any]
    truth: str | None
    truth_half: str | None
    floor: float | None
    records: list[Record]


@dataclasses.dataclass(frozen=True)
class Family:
    """One idea.

    Attributes:
      name: of the family.
      split: `tuning` or `held_out`.
      make: `(quick) -> runs`; quick makes few.
      cheap: made in seconds, and therefore part of `--quick`.
    """

    name: str
    split: str
    make: Callable[[bool], list[LabelledRun]]
    cheap: bool = True


def label(
    family: str,
    split: str,
    params: Mapping[str, Any],
    course: Course,
    records: Sequence[Record],
    floor: float | None,
    *,
    veto: Callable[[str, int], bool] | None = None,
) -> LabelledRun:
    """A run labelled by the rule, at its end and at its half.

    Args:
      family: its family's name.
      split: its family's split.
      params: what makes it again.
      course: what is known of it.
      records: what the classifier sees.
      floor: a known lower bound of the objective.
      veto: `(verdict, rounds) -> whether the family's own rule leaves the run out`.
    """
    broken = "nonfinite" in records[-1]

    def truth(rounds: int) -> str | None:
        if broken and rounds == len(records):
            return DIVERGING
        found = verdict_of(course, rounds)
        return None if found is None or (veto and veto(found, rounds)) else found

    whole = len(records)
    half = truth(half_of(whole))
    return LabelledRun(family, split, dict(params), truth(whole), half, floor, list(records))


def half_of(rounds: int) -> int:
    """How many records are left when a run is cut at half of its rounds."""
    return rounds // 2


def records_of(columns: Mapping[str, np.ndarray], rounds: int) -> list[Record]:
    """Records of one run from `{name: [at least rounds]}`.

    NaN in any column but the losses means "not recorded in this round". A run ends with its first
    round whose `train_loss` or `step_norm` is not finite, as a session's does; that number is
    null and named in `nonfinite`.
    """
    out: list[Record] = []
    for i in range(rounds):
        record: Record = {"round": i + 1}
        record |= {n: float(v[i]) for n, v in columns.items() if not math.isnan(v[i])}
        bad = [n for n in columns if math.isinf(record.get(n, 0.0))]
        bad += [n for n in ("train_loss", "step_norm") if n not in record]
        if bad:
            record |= dict.fromkeys(bad) | {"nonfinite": bad}
        out.append(record)
        if bad:
            break
    return out


def series_of(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """The classifier's input: `{name: [R]}`, NaN where a round has no such value."""
    names = list(dict.fromkeys(n for r in records for n in r if n != "nonfinite"))
    column = lambda n: [math.nan if r.get(n) is None else r[n] for r in records]  # noqa: E731
    return {n: np.asarray(column(n), float) for n in names}
