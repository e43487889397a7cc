"""The picture of the effects: a panel of curves each, and the verdicts of their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

INK, FAINT = "#22272e", "#6b7480"
COLORS = ("#6b7480", "#0b7a75", "#d1495b", "#edae49", "#30638e")
MARKS = {"agrees": ("#0b7a75", "o"), "disagrees": ("#d1495b", "X"), "not shown": ("#edae49", "D")}
_WORDS = {"test_accuracy": "test accuracy", "test_loss": "test loss, log scale"}


def draw(rows: Sequence[Mapping[str, Any]], courses: Mapping[str, Any], record: Path) -> Path:
    """Draw all effects; beside the record, as `.png`."""
    names, across = list(courses), 2
    down = -(-len(names) // across)
    figure = plt.figure(figsize=(11, 3.3 * down), layout="constrained")
    grid = figure.add_gridspec(down, across)
    for i, name in enumerate(names):
        alone = i == len(names) - 1 and i % across == 0
        axis = figure.add_subplot(grid[i // across, :] if alone else grid[i // across, i % across])
        if name == "batch norm":
            _bars(axis, courses[name])
        else:
            _curves(axis, courses[name])
        axis.set_title(_title(name, rows), color=INK, fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=FAINT, labelsize=8)
    figure.suptitle(
        "Textbook effects of optimizers: mean over five seeds, band from least to largest",
        color=INK, fontweight="bold",
    )  # fmt: skip
    path = record.with_suffix(".png")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _title(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    mine = [r["verdict"] for r in rows if r["panel"] == name]
    told = ", ".join(f"{mine.count(v)} {v}" for v in MARKS if mine.count(v))
    return f"{name}\n{told}"


def _curves(axis: Axes, courses: Sequence[Mapping[str, Any]]) -> None:
    for color, course in zip(COLORS, courses, strict=False):
        mean, low, high = (np.array(course[n], float) for n in ("mean", "low", "high"))
        at = np.arange(1, len(mean) + 1)
        axis.plot(at, mean, color=color, lw=1.6, label=course["label"])
        axis.fill_between(at, low, high, color=color, alpha=0.15, lw=0)
    metric = courses[0]["metric"]
    if metric == "test_loss":
        axis.set_yscale("log")
    else:
        axis.set_ylim(0.4, 1.0)
    axis.set_xlabel("round", color=FAINT, fontsize=8)
    axis.set_ylabel(_WORDS[metric], color=FAINT, fontsize=8)
    axis.legend(fontsize=7, frameon=False)


def _bars(axis: Axes, courses: Sequence[Mapping[str, Any]]) -> None:
    """Final accuracy by arm, on the central test set and on clients' own examples."""
    y = np.arange(len(courses))[::-1]
    for shift, key, color in ((0.18, "final", COLORS[1]), (-0.18, "own", COLORS[3])):
        values = [np.mean(c[key]) for c in courses]
        spread = [[v - min(c[key]), max(c[key]) - v] for c, v in zip(courses, values, strict=True)]
        label = {"final": "global model, central test", "own": "clients, own examples"}[key]
        axis.barh(
            y + shift, values, 0.32, xerr=np.transpose(spread), color=color, label=label,
            error_kw={"lw": 0.8, "ecolor": FAINT},
        )  # fmt: skip
    axis.set_yticks(y, [c["label"] for c in courses])
    low = min(min(c["final"]) for c in courses)
    axis.set_xlim(max(0.0, np.floor(10 * low) / 10 - 0.1), 1.0)
    axis.set_xlabel("accuracy at the end", color=FAINT, fontsize=8)
    axis.legend(fontsize=7, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
