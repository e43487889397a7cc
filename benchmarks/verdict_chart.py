"""The picture of `verdicts.json`: confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from charts import FAINT, INK
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from verdict_suite.scoring import SHORT_NAMES

SHADES = LinearSegmentedColormap.from_list("verdicts", ["#ffffff", "#0b7a75"])
WRONG = "#c0392b"
SPLITS = {"tuning": "families seen while tuning", "held_out": "families held out"}
CUTS = ("whole", "first half")


def confusions(rows: Sequence[dict[str, Any]], record: Path) -> Path:
    """Two splits by two cuts; beside the record, as `.png`."""
    found = {(row["split"], row["cut"]): row for row in rows}
    figure, axes = plt.subplots(2, 2, figsize=(11, 9.6), layout="constrained")
    for i, (split, words) in enumerate(SPLITS.items()):
        for j, cut in enumerate(CUTS):
            axis = axes[i, j]
            if (split, cut) in found:
                seen = "all records seen" if cut == "whole" else "first half seen"
                _panel(axis, found[split, cut], f"{words}, {seen}", labels=(i == 1, j == 0))
            else:
                axis.set_axis_off()
    figure.suptitle("Verdicts against the truth", color=INK, fontweight="bold")
    picture = record.with_suffix(".png")
    figure.savefig(picture, dpi=130)
    plt.close(figure)
    return picture


def _panel(axis: Axes, row: dict[str, Any], title: str, labels: tuple[bool, bool]) -> None:
    counts = np.asarray(row["confusion"])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap=SHADES, vmin=0, vmax=1)
    for i, j in np.ndindex(*counts.shape):
        if counts[i, j]:
            right = i == j
            colour = "white" if right and shares[i, j] > 0.5 else INK if right else WRONG
            axis.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour,
                      fontweight="normal" if right else "bold")  # fmt: skip
    places = range(len(SHORT_NAMES))
    axis.set_xticks(places, SHORT_NAMES if labels[0] else [""] * len(places), rotation=35,
                    ha="right", color=INK)  # fmt: skip
    axis.set_yticks(places, SHORT_NAMES if labels[1] else [""] * len(places), color=INK)
    axis.tick_params(length=0)
    if labels[0]:
        axis.set_xlabel("said", color=FAINT)
    if labels[1]:
        axis.set_ylabel("truth", color=FAINT)
    right = f"{100 * row['accuracy']:.1f} % of {row['runs']} right"
    axis.set_title(
        f"{title}\n{right}, {row['left_out']} left out", loc="left", fontsize=10, color=INK
    )
    for side in axis.spines.values():
        side.set_color("#c9ced4")
