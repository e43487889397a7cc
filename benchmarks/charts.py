"""Pictures of the records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from tables import seconds, significant

OURS, THEIRS, INK, FAINT = "#0b7a75", "#b8bec6", "#22272e", "#6b7480"
TITLES = {
    "W1-lin": "Logistic regression, 610 parameters",
    "W1-mlp": "784-200-200-10, 199,210 parameters",
    "W1-cnn": "Two convolutions, 1,626,442 parameters",
}


def comparison(rows: Sequence[dict[str, Any]], record: Path) -> Path:
    """Seconds a round by simulator, a panel for each workload; beside the record, as `.png`."""
    names = sorted({row["workload"] for row in rows}, key=_order)
    count = [len(_bars(rows, name)) for name in names]
    figure, axes = plt.subplots(
        len(names), 1, squeeze=False, figsize=(8, 0.9 * len(names) + 0.42 * sum(count) + 0.5),
        gridspec_kw={"height_ratios": [n + 0.4 for n in count]}, layout="constrained",
    )  # fmt: skip
    for axis, name in zip(axes[:, 0], names, strict=True):
        _panel(axis, name, _bars(rows, name))
    axes[-1, 0].set_xlabel("time of a round, log scale; beside it how many times ours", color=FAINT)
    peak = rows[-1]["machine"]
    figure.suptitle(
        f"Time of one federated round, {peak['cores']} CPU cores", color=INK, fontweight="bold"
    )
    picture = record.with_suffix(".png")
    figure.savefig(picture, dpi=150)
    plt.close(figure)
    return picture


def _order(name: str) -> tuple[int, str]:
    known = list(TITLES)
    return (known.index(name) if name in known else len(known), name)


def _bars(rows: Sequence[dict[str, Any]], name: str) -> list[tuple[str, float, str]]:
    """`(label, seconds, note)`, fastest first; ours by the way that dispatches most rounds."""
    mine = [row for row in rows if row["workload"] == name]
    chunk = max(row["rounds_a_dispatch"] for row in mine)
    mine = [row for row in mine if row["rounds_a_dispatch"] == chunk]
    ours = statistics.median(row["ours_seconds"] for row in mine)
    bars = [("fedjax_sim", ours, seconds(ours))]
    for row in mine:
        note = f"{seconds(row['rival_seconds'])}   {significant(row['ratio'])}x"
        bars.append((row["label"], row["rival_seconds"], note))
    return sorted(bars, key=lambda bar: bar[1])


def _panel(axis: Axes, name: str, bars: list[tuple[str, float, str]]) -> None:
    labels, values, notes = zip(*bars, strict=True)
    places = range(len(bars))
    colours = [OURS if label == "fedjax_sim" else THEIRS for label in labels]
    left = 10 ** _floor_log(min(values) / 2)
    axis.barh(places, [v - left for v in values], left=left, color=colours, height=0.68)
    for place, value, note, label in zip(places, values, notes, labels, strict=True):
        weight = "bold" if label == "fedjax_sim" else "normal"
        axis.annotate(
            note, (value, place), (5, 0), textcoords="offset points", va="center",
            color=INK, fontsize=9, fontweight=weight,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlim(left, max(values) * 8)
    axis.xaxis.set_major_formatter(lambda value, _: _round_time(value))
    axis.minorticks_off()
    axis.set_yticks(list(places), labels, color=INK)
    axis.invert_yaxis()
    axis.set_title(
        f"{name}: {TITLES.get(name, '')}".rstrip(": "), loc="left", fontsize=10, color=INK
    )
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", colors=FAINT, labelsize=8)
    axis.grid(axis="x", color="#e6e8eb", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color("#c9ced4")


def _floor_log(value: float) -> int:
    return math.floor(math.log10(value))


def _round_time(value: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= 0.999 * unit:
            return f"{value / unit:g} {name}"
    return f"{value:g} s"
