"""Scores of a classifier on labelled runs, and their tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from verdict_suite.rules import VERDICTS
from verdict_suite.suite import LabelledRun, Record, half_of

Classifier = Callable[[Sequence[Record], float | None], str]
SHORT_NAMES = ("converged", "converging", "stagnating", "oscillating", "diverging", "too early")


class Answer(NamedTuple):
    """What the classifier said of one run.

    Attributes:
      run: the run.
      truth: its verdict at this cut.
      said: the classifier's.
    """

    run: LabelledRun
    truth: str
    said: str


def ask(runs: Iterable[LabelledRun], classify: Classifier, *, half: bool) -> list[Answer]:
    """Answers on whole runs, or on the first halves of their records; unlabelled ones left out."""
    out: list[Answer] = []
    for run in runs:
        truth = run.truth_half if half else run.truth
        if truth is not None:
            seen = run.records[: half_of(len(run.records))] if half else run.records
            out.append(Answer(run, truth, classify(seen, run.floor)))
    return out


def accuracy(answers: Sequence[Answer]) -> float | None:
    """Share of right answers; None of none."""
    return sum(a.truth == a.said for a in answers) / len(answers) if answers else None


def confusion(answers: Sequence[Answer]) -> list[list[int]]:
    """`[truth][said]`, in the order of `VERDICTS`."""
    return [[sum(a.truth == t and a.said == s for a in answers) for s in VERDICTS]
            for t in VERDICTS]  # fmt: skip


def row_of(answers: Sequence[Answer], left_out: int, *, split: str, cut: str) -> dict[str, Any]:
    """What is published of one split at one cut."""
    families = list(dict.fromkeys(a.run.family for a in answers))
    of_family = {f: [a for a in answers if a.run.family == f] for f in families}
    of_class = {v: [a for a in answers if a.truth == v] for v in VERDICTS}
    counted = lambda group: {"runs": len(group), "accuracy": accuracy(group)}  # noqa: E731
    return {
        "split": split,
        "cut": cut,
        "runs": len(answers),
        "left_out": left_out,
        "accuracy": accuracy(answers),
        "per_class": {v: counted(group) for v, group in of_class.items()},
        "per_family": {f: counted(group) for f, group in of_family.items()},
        "verdicts": list(VERDICTS),
        "confusion": confusion(answers),
    }


def table(row: dict[str, Any]) -> str:
    """A row as text: totals, the confusion matrix, families."""
    percent = lambda v: "-" if v is None else f"{100 * v:.1f} %"  # noqa: E731
    head = f"{row['split']}, {row['cut']}: {percent(row['accuracy'])} of {row['runs']} runs right"
    lines = [f"{head}; {row['left_out']} lie between two verdicts and are left out", ""]
    lines.append(
        f"  {'truth, said':14}" + "".join(f"{n:>12}" for n in SHORT_NAMES) + "       right"
    )
    for name, verdict, counts in zip(SHORT_NAMES, VERDICTS, row["confusion"], strict=True):
        right = percent(row["per_class"][verdict]["accuracy"])
        lines.append(f"  {name:14}" + "".join(f"{n or '.':>12}" for n in counts) + f"{right:>12}")
    lines.append("")
    for family, found in row["per_family"].items():
        lines.append(f"  {family:18}{found['runs']:5} runs {percent(found['accuracy']):>9}")
    return "\n".join(lines)


def wrong(answers: Sequence[Answer]) -> str:
    """The misjudged runs with what makes them again."""
    lines: list[str] = []
    for a in answers:
        if a.truth != a.said:
            params = {n: v for n, v in a.run.params.items() if not isinstance(v, list)}
            lines.append(f"  {a.run.family}: {a.truth}, said {a.said}: {params}")
    return "\n".join(lines)
