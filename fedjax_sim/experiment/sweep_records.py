"""What the runs of a sweep came to: curves, and one tidy record a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedjax_sim.diagnostics.verdict import verdict
from fedjax_sim.experiment.diagnosis import floor_of
from fedjax_sim.experiment.direction import better
from fedjax_sim.experiment.records import EACH, HIDDEN, flags_of

Curves = dict[str, np.ndarray]
DONE, DIVERGED = "done", "diverged"
METRICS = (
    *("test_accuracy", "client_accuracy_mean", "test_loss", "client_loss_mean", "train_loss"),
)


def curves_of(buffers: Mapping[str, np.ndarray], probes: Iterable[str]) -> Curves:
    """`{name: float [runs, R]}`, NaN on rounds where nothing was measured or after the end."""
    flags = flags_of(buffers)
    if "probed" in buffers:
        flags |= dict.fromkeys(probes, "probed")
    hidden = {*HIDDEN, *flags.values()}
    curves = {n: np.asarray(v, float) for n, v in buffers.items() if n not in hidden}
    for name, each in EACH.items():
        if each in buffers:
            curves[name] = np.asarray(buffers[each], float) * buffers["cohort_present"]
    for name in flags.keys() & curves.keys():
        curves[name] = np.where(np.asarray(buffers[flags[name]], bool), curves[name], np.nan)
    over = _over(buffers)
    return {n: np.where(over, np.nan, v) for n, v in curves.items()}


def _over(buffers: Mapping[str, np.ndarray]) -> np.ndarray:
    """Bool `[runs, R]`: rounds after the first that was not sound."""
    lost = ~np.asarray(buffers["sound"], bool)
    return np.cumsum(lost, axis=1) > 1


def outcomes(curves: Curves, probes: Iterable[str], sound: np.ndarray) -> list[dict[str, Any]]:
    """How each run ended.

    Args:
      curves: of `curves_of`.
      probes: names that are measured on evaluation rounds.
      sound: bool `[runs, R]`, whether all was finite up to each round.

    Returns:
      `status`, `rounds` (up to where a diverged run was no longer finite), `verdict`, and
      `final_NAME`, and where better can be said `best_NAME` and `best_NAME_round`, of every
      metric; None where it is not finite.
    """
    lost = ~np.asarray(sound, bool)
    diverged = np.asarray(lost.any(axis=1))
    stopped = np.where(diverged, lost.argmax(axis=1) + 1, lost.shape[1])
    columns: dict[str, Sequence[Any]] = {
        "status": [DIVERGED if bad else DONE for bad in diverged],
        "rounds": [int(n) for n in stopped],
    }
    for name in sorted({*probes, "train_loss"} & curves.keys()):
        values = curves[name]
        columns[f"final_{name}"] = [_or_none(v) for v in values[:, -1]]
        if sign := better(name):
            scores = np.where(np.isfinite(values), sign * values, -np.inf)
            at = scores.argmax(axis=1)
            columns[f"best_{name}"] = [_or_none(v) for v in sign * scores.max(axis=1)]
            seen: Any = np.isfinite(values).any(axis=1)
            columns[f"best_{name}_round"] = [
                int(i) + 1 if some else None for i, some in zip(at, seen, strict=True)
            ]
    if "train_loss" in curves:
        columns["verdict"] = [
            _verdict(v[:n]) for v, n in zip(curves["train_loss"], stopped, strict=True)
        ]
    if "client_steps" in curves:
        columns["client_steps"] = [int(v) for v in np.nansum(curves["client_steps"], axis=1)]
    keys = list(columns)
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _verdict(losses: np.ndarray) -> str:
    """The name of the verdict on a run's training loss `[R]`."""
    seen = losses[np.isfinite(losses)]
    return verdict({"train_loss": losses}, floor=floor_of(seen.min(initial=np.inf))).name


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def metrics_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Metrics that the runs have a final value of, the most telling ones first."""
    found = {k.removeprefix("final_") for r in records for k in r if k.startswith("final_")}
    return [m for m in METRICS if m in found] + sorted(found.difference(METRICS))


def summary_rows(
    records: Sequence[Mapping[str, Any]], varied: Sequence[str]
) -> list[dict[str, Any]]:
    """One row a setting, in the order of the grid.

    Returns:
      The varied values, `n` runs, how many `diverged`, and `NAME_mean`, `NAME_std` of every
      final and best metric over the runs that did not diverge; the standard deviation is the
      sample's (n - 1), None for one run.
    """
    names = sorted({k for r in records for k in r if k.startswith(("final_", "best_"))})
    names = [n for n in names if not n.endswith("_round")]
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["setting"], []).append(record)
    rows: list[dict[str, Any]] = []
    for setting in sorted(groups):
        runs = groups[setting]
        sound = [r for r in runs if r["status"] == DONE]
        row: dict[str, Any] = {name: runs[0].get(name) for name in varied}
        row |= {"n": len(runs), "diverged": len(runs) - len(sound)}
        for name in names:
            values = [r[name] for r in sound if r.get(name) is not None]
            row[f"{name}_mean"] = float(np.mean(values)) if values else None
            row[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows.append(row)
    return rows


def best_row(rows: Sequence[Mapping[str, Any]], metric: str) -> int | None:
    """The setting with the best final mean among those of which no run diverged."""
    sign = better(metric) or 1
    scored = [
        (sign * row[f"final_{metric}_mean"], -i)
        for i, row in enumerate(rows)
        if row.get(f"final_{metric}_mean") is not None and not row["diverged"]
    ]
    return -max(scored)[1] if scored else None
