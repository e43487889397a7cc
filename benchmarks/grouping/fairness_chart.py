"""The picture of `fairness.py`: what each method changes for the worst tenth and for the mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from optimizer_effects.intervals import Interval

from fedjax_sim.experiment.palette import BLUE, GREEN, GREY, GRID, INK

_UP, _DOWN = 8.0, -4.0  # the bar, in points
_SHIFT = 0.16

Gain = tuple[dict[str, Any], Interval, Interval]


def picture(panels: dict[str, Sequence[Gain]], path: Path) -> Path:
    """A panel a federation, a line a method: points against averaging by examples.

    Args:
      panels: `{title: [(row, worst tenth, mean)]}`, in the same order of methods.
      path: of the PNG.
    """
    most = max(len(gains) for gains in panels.values())
    figure, axes = plt.subplots(
        1, len(panels), squeeze=False, sharey=True, layout="constrained",
        figsize=(1.8 + 4.6 * len(panels), 1.7 + 0.34 * most),
    )  # fmt: skip
    for ax, (title, gains) in zip(axes[0], panels.items(), strict=True):
        _panel(ax, gains, title)
    seeds = len(next(iter(panels.values()))[0][0]["mean"])
    figure.suptitle(
        "Clients' accuracy against averaging by examples", x=0.01, ha="left", fontsize=13,
        fontweight="bold", color=INK,
    )  # fmt: skip
    figure.supxlabel(
        f"points; 95 % intervals over {seeds} federations, paired", fontsize=9, color=GREY
    )
    axes[0, 0].legend(
        loc="lower left", fontsize=8.5, frameon=True, facecolor="white", edgecolor="none",
        framealpha=1, labelcolor="linecolor", handletextpad=0.3,
    )  # fmt: skip
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _panel(ax: Axes, gains: Sequence[Gain], title: str) -> None:
    places = range(len(gains))
    met = [worst.mean >= _UP and mean.mean >= _DOWN for _, worst, mean in gains]
    for place in (p for p in places if met[p]):
        ax.axhspan(place - 0.5, place + 0.5, color=GREEN, alpha=0.09, lw=0)
    for x, color in ((_UP, GREEN), (_DOWN, BLUE), (0, GREY)):
        ax.axvline(x, color=color, lw=0.9, ls="-" if x == 0 else (0, (4, 3)), zorder=1)
        if x:
            ax.annotate(
                f"{x:+g}", (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
                textcoords="offset points", ha="center", color=color, fontsize=8,
            )  # fmt: skip
    for shift, at, color, label in (
        (-_SHIFT, 1, GREEN, "worst tenth of clients"),
        (_SHIFT, 2, BLUE, "mean of clients"),
    ):
        found = [gain[at] for gain in gains]
        ax.errorbar(
            [i.mean for i in found], [p + shift for p in places],
            xerr=[[i.mean - i.low for i in found], [i.high - i.mean for i in found]],
            fmt="o", ms=5.5, color=color, elinewidth=1.1, label=label, zorder=3,
        )  # fmt: skip
    ax.set_title(title, loc="left", fontsize=10.5, color=INK, pad=16)
    ax.set_yticks(list(places), [row["method"] for row, _, _ in gains], color=INK, fontsize=9)
    ax.set_ylim(len(gains) - 0.5, -0.5)
    ax.grid(axis="x", color=GRID, lw=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", colors=GREY, labelsize=8.5, length=0)
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(False)
