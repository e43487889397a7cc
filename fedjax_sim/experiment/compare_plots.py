"""The picture of a comparison: mean curves, and the four effects with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjax_sim.diagnostics.compare import Contestant
from fedjax_sim.diagnostics.paired import BETTER, WORSE
from fedjax_sim.diagnostics.targets import DIVERGED
from fedjax_sim.experiment.compare_table import shorter, shown_metric
from fedjax_sim.experiment.palette import BLUE, GREEN, GREY, GRID, INK, ORANGE, PURPLE, RED
from fedjax_sim.experiment.report import measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedjax_sim.experiment.compare import Comparison

_HUES = (BLUE, ORANGE, GREEN, PURPLE, RED)
_MOST, _LONGEST_TITLE = 9, 90
_LOG_RANGE = 50.0
_HEAD_IN = 0.6
_PANELS = (
    ("rounds", "faster", "rounds to target", "fewer"),
    ("end", "better", "end level", ""),
    ("largest_drop", "steadier", "largest drop, last third", "smaller"),
    ("share", "feasible", "seeds that reach the target", "more"),
)


def picture(c: Comparison) -> Figure:
    """Mean curves with a band of one standard deviation, and one small panel an effect.

    A dot is a contestant's own value over its seeds, the bar its confidence interval; the word
    beside it is that of the paired comparison with the baseline, which can be sharper than the
    bars. A hollow dot is a lower bound: runs never reached the target. At most nine
    contestants are drawn: the baseline and the best by end level.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = _chosen(c)
    colors = dict(zip(shown, _colors(len(shown)), strict=True))
    height = 4.9 + 0.32 * max(len(shown) - 3, 0)
    rect = (0, 0, 1, 1 - _HEAD_IN / height)
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.09, wspace=0.04, rect=rect)
    figure = Figure(figsize=(13.0, height), dpi=150, layout=layout, facecolor="white")
    grid = figure.add_gridspec(2, 3, width_ratios=[1.45, 1, 1])
    _curves_panel(figure.add_subplot(grid[:, 0]), c, colors)
    for i, panel in enumerate(_PANELS):
        _effect_panel(figure.add_subplot(grid[i // 2, 1 + i % 2]), c, colors, panel, i % 2 == 0)
    _title(figure, c, len(shown))
    return figure


def _chosen(c: Comparison) -> list[str]:
    """The contestants to draw, in their order."""
    if len(c.names) <= _MOST:
        return c.names
    ends = {row["name"]: row["end"] for row in c.rows[1:] if row["end"] is not None}
    best = sorted(ends, key=lambda name: -c.sign * ends[name])[: _MOST - 1]
    return [name for name in c.names if name == c.names[0] or name in best]


def _colors(n: int) -> list[Any]:
    from matplotlib import colormaps

    if n <= len(_HUES):
        return list(_HUES[:n])
    return [colormaps["viridis"](0.92 * i / (n - 1)) for i in range(n)]


def _curves_panel(ax: Axes, c: Comparison, colors: Mapping[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    means: list[np.ndarray] = []
    short = shorter(c.names)
    for contestant in c.contestants:
        if contestant.name not in colors:
            continue
        at, values = _curves(contestant)
        if not len(at):
            continue
        color, seen = colors[contestant.name], np.isfinite(values).sum(axis=0)
        mean = np.nanmean(values, axis=0)
        if seen.max() > 1:
            many = seen > 1
            std = np.nanstd(values[:, many], axis=0, ddof=1)
            low, high = mean[many] - std, mean[many] + std
            ax.fill_between(at[many], low, high, color=color, alpha=0.15, lw=0)
        marker = "o" if len(at) == 1 else None
        label = short[contestant.name]
        ax.plot(at, mean, color=color, lw=1.8, marker=marker, ms=4, label=label)
        means.append(mean)
    ax.axhline(c.target.value, color=GREY, lw=1.1, ls=(0, (4, 3)), zorder=1)
    _dress(ax, shown_metric(c.metric))
    _value_axis(ax, c, means)
    ax.grid(color=GRID, lw=0.8)
    if "accuracy" in c.metric:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("round", color=GREY, fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    words = f"target {measure(c.metric, c.target.value)}"
    side = {"ha": "left", "x": 0.012} if c.sign > 0 else {"ha": "right", "x": 0.988}
    ax.annotate(
        words,
        (side["x"], c.target.value),
        xycoords=ax.get_yaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        ha=str(side["ha"]),
        color=GREY,
        fontsize=8,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1},
    )
    where = "lower right" if c.sign > 0 else "upper right"
    ax.legend(fontsize=8.5, frameon=False, labelcolor=INK, loc=where, handlelength=1.4)


def _curves(contestant: Contestant) -> tuple[np.ndarray, np.ndarray]:
    """Rounds `[n]` and values `[seeds, n]`, NaN where a seed has none; diverged runs left out."""
    kept = [x for x in contestant.courses if x.ended != DIVERGED and len(x.rounds)]
    kept = kept or [x for x in contestant.courses if len(x.rounds)]
    if not kept:
        return np.empty(0), np.empty((0, 0))
    at = np.unique(np.concatenate([x.rounds for x in kept]))
    values = np.full((len(kept), len(at)), np.nan)
    for row, course in zip(values, kept, strict=True):
        row[np.searchsorted(at, course.rounds)] = course.values
    return at, values


def _value_axis(ax: Axes, c: Comparison, means: Sequence[np.ndarray]) -> None:
    """Logarithmic where losses span a wide range, else from what the curves need."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = np.concatenate([*means, [c.target.value]])
    if c.sign < 0 and values.min() > 0 and values.max() > _LOG_RANGE * values.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    elif "accuracy" in c.metric:
        ax.set_ylim(max(0.0, float(values.min()) - 0.05), min(1.0, float(values.max()) + 0.05))


def _effect_panel(
    ax: Axes,
    c: Comparison,
    colors: Mapping[str, Any],
    panel: tuple[str, str, str, str],
    named: bool,
) -> None:
    """Dots with intervals, a line a contestant, the first on top."""
    name, effect, title, wish = panel
    wish = wish or ("higher" if c.sign > 0 else "lower")
    found = [e for e in c.effects if e["measure"] == name and e["contestant"] in colors]
    crowded = len(found) > len(_HUES)
    for y, e in enumerate(found):
        _dot(ax, e, y, colors[e["contestant"]])
        if y:
            tone = {BETTER: GREEN, WORSE: RED}.get(e["word"], GREY)
            ax.text(
                1.02,
                y,
                e["word"] if crowded else e["word"].replace("difference ", "difference\n"),
                transform=ax.get_yaxis_transform(),
                color=tone,
                fontsize=7.5 if crowded else 8,
                va="center",
                fontweight="bold" if e["word"] in (BETTER, WORSE) else "normal",
            )
    ax.set_ylim(len(found) - 0.5, -0.5)
    short = shorter(c.names)
    labels = [short[e["contestant"]] for e in found] if named else [""] * len(found)
    ax.set_yticks(range(len(found)), labels)
    _dress(ax, f"{effect}: {title}", f"{wish} is better")
    ax.grid(axis="x", color=GRID, lw=0.8)
    _amount_axis(ax, c, name, found)
    for tick, e in zip(ax.get_yticklabels(), found, strict=True):
        tick.set_color(colors[e["contestant"]])
        tick.set_fontweight("bold")


def _dot(ax: Axes, e: Mapping[str, Any], y: float, color: Any) -> None:
    value, low, high = e["value"], e["low"], e["high"]
    if value is None:
        ax.text(0.5, y, "not known", transform=ax.get_yaxis_transform(), color=GREY, fontsize=8)
        return
    if low is not None and high is not None:
        ax.plot([low, high], [y, y], color=color, lw=2.2, alpha=0.55, solid_capstyle="round")
    face = "white" if e["bound"] else color
    ax.scatter([value], [y], s=44, color=face, edgecolors=[color], lw=1.6, zorder=4)


def _amount_axis(ax: Axes, c: Comparison, name: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Limits that show every dot, and bars as far as they help; ticks in the measure's form."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

    if name == "share":
        ax.set_xlim(-0.03, 1.03)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0))
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
        return
    dots = [e["value"] for e in found if e["value"] is not None]
    if not dots:
        ax.set_xticks([])
        return
    bars = [e[side] for e in found for side in ("low", "high") if e[side] is not None]
    # Two seeds give bars of any length: one is cut where it would squeeze all dots together.
    ends = [e for e in found if e["low"] is not None and e["high"] is not None]
    halves = [max(e["high"] - e["value"], e["value"] - e["low"]) for e in ends]
    usual = float(np.median(halves)) if halves else 0.0
    reach = max(max(dots) - min(dots), 0.15 * max(map(abs, dots)), usual, 1e-12)
    low = max(min([*dots, *bars]), min(dots) - 1.5 * reach)
    high = min(max([*dots, *bars]), max(dots) + 1.5 * reach)
    if name == "largest_drop" or (name == "rounds" and low < 0.5 * high):
        low = 0.0  # neither can be negative, though the bar of a few seeds may be
    pad = 0.06 * max(high - low, 1e-12)
    ax.set_xlim(low - pad, high + pad)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
    if name == "rounds":
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    elif "accuracy" in c.metric:
        ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))


def _dress(ax: Axes, title: str, wish: str = "") -> None:
    ax.set_title(title, loc="left", fontsize=10.5, color=INK, pad=8)
    if wish:
        ax.set_xlabel(wish, color=GREY, fontsize=8, loc="left")
    ax.set_axisbelow(True)
    ax.tick_params(which="both", colors=GREY, labelsize=9, length=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(GRID)


def _title(figure: Figure, c: Comparison, shown: int) -> None:
    seeds = sorted({row["runs"] for row in c.rows})
    said = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    parts = [f"{said} seed{'s' if seeds[-1] != 1 else ''} each"]
    if shown < len(c.names):
        parts.append(f"drawn: the best {shown - 1} of {len(c.names) - 1} others")
    if seeds[-1] > 1:
        parts.append(f"band: one standard deviation; bars: {100 * c.level:g} % intervals")
        parts.append("words: against the baseline")
    if any(e["bound"] for e in c.effects):
        at = f" within {c.horizon:g} rounds" if math.isfinite(c.horizon) else ""
        parts.append(f"hollow: not all reached the target{at}")
    base, *others = shorter(c.names).values()
    main = f"{', '.join(others)} against {base}"
    if len(main) > _LONGEST_TITLE:
        main = f"{len(others)} others against {base}"
    top = 1 - 0.1 / figure.get_size_inches()[1]
    figure.suptitle(main, x=0.012, y=top, ha="left", fontsize=13, fontweight="bold", color=INK)
    below = 1 - (_HEAD_IN - 0.08) / figure.get_size_inches()[1]
    figure.text(0.012, below, "  \u00b7  ".join(parts), ha="left", fontsize=9, color=GREY)
