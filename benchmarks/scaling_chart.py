"""The picture of `scaling.json`: a column a study, time above and memory below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

COLOURS = {"W1-lin": "#d1782a", "W1-mlp": "#0b7a75", "W5": "#5b5ea6"}
INK, FAINT = "#22272e", "#6b7480"
PANELS = {
    "cohort": "clients a round",
    "population": "clients in all",
    "lanes": "lanes a device",
    "devices": "devices (cores)",
    "model": "hidden width",
}
MEASURES = (
    ("time of a round, ms", lambda row: 1e3 * row["round_seconds"]),
    ("client steps a second", lambda row: row["steps_per_second"]),
    ("peak memory, GB", lambda row: row["peak_bytes"] / 1e9),
)


def draw(rows: Sequence[dict[str, Any]], record: Path) -> Path:
    """Small multiples of every study that is a curve; beside the record, as `.png`."""
    picture = record.with_suffix(".png")
    studies = [name for name in PANELS if any(row["study"] == name for row in rows)]
    if not studies:
        return picture
    figure, axes = plt.subplots(
        len(MEASURES), len(studies), squeeze=False, layout="constrained",
        figsize=(2.5 * len(studies) + 1.2, 2.1 * len(MEASURES) + 0.6),
    )  # fmt: skip
    for column, study in enumerate(studies):
        mine = [row for row in rows if row["study"] == study]
        for place, (name, measure) in enumerate(MEASURES):
            axis = axes[place, column]
            _curves(axis, mine, measure)
            axis.set_ylabel(name if column == 0 else "", color=INK, fontsize=9)
            axis.set_xlabel(PANELS[study] if place == len(MEASURES) - 1 else "", color=FAINT)
        axes[0, column].set_title(study, loc="left", color=INK, fontsize=11, fontweight="bold")
    lines = sorted({row["line"] for row in rows if row["study"] in studies})
    handles = [plt.Line2D([], [], color=COLOURS.get(n, INK), marker="o", ms=4) for n in lines]
    figure.legend(handles, lines, loc="outside upper right", ncols=len(lines), frameon=False)
    figure.savefig(picture, dpi=150)
    plt.close(figure)
    return picture


def _curves(axis: Axes, rows: Sequence[dict[str, Any]], measure: Any) -> None:
    for name in sorted({row["line"] for row in rows}):
        points = sorted((row["x"], measure(row)) for row in rows if row["line"] == name)
        axis.plot(*zip(*points, strict=True), color=COLOURS.get(name, INK), marker="o", ms=4)
    places = sorted({row["x"] for row in rows})
    axis.set_xscale("log", base=2 if places[-1] <= 64 else 10)
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low / 1.4, high * 1.4)
    if len(places) <= 6:
        axis.set_xticks(places, [_short(p) for p in places])
        axis.minorticks_off()
    axis.tick_params(colors=FAINT, labelsize=8)
    axis.grid(color="#e6e8eb", linewidth=0.8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _short(value: int) -> str:
    for unit, name in ((1_000_000, "M"), (1000, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return str(value)
