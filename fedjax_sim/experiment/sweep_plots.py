"""The picture of a sweep: curves of the settings, and the metric by the varied value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjax_sim.experiment.palette import BLUE, GREY, GRID, INK, ORANGE
from fedjax_sim.experiment.summary import better
from fedjax_sim.experiment.sweep_records import DONE, best_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedjax_sim.experiment.sweep_result import Sweep

_MOST_CURVES = 9
_LOG_RANGE = 5.0
Rows = Sequence[Mapping[str, Any]]


def picture(sweep: Sweep, metric: str) -> Figure:
    """Mean curves with a band of one standard deviation, and the final metric by value.

    The second panel is there when something was varied: its axis is the first varied number
    with several values (logarithmic where it spans a factor of 5), one line a combination of
    the others. Diverged runs are left out, and settings in which a run diverged are hollow.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = sweep.rows()
    panels = 2 if sweep.varied and len(rows) > 1 else 1
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.06, rect=(0, 0, 1, 0.92))
    size = (6.4 + 4.6 * (panels - 1), 4.5)
    figure = Figure(figsize=size, dpi=150, layout=layout, facecolor="white")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _curves_panel(axes[0], sweep, rows, metric)
    if panels == 2:
        _values_panel(axes[1], sweep, rows, metric)
    _title(figure, sweep)
    return figure


def _colors(n: int) -> list[Any]:
    from matplotlib import colormaps

    if n == 1:
        return [BLUE]
    return [colormaps["viridis"](0.92 * i / (n - 1)) for i in range(n)]


def _curves_panel(ax: Axes, sweep: Sweep, rows: Rows, metric: str) -> None:
    from matplotlib.ticker import MaxNLocator

    shown = _chosen(rows, metric)
    for i, color in zip(shown, _colors(len(shown)), strict=True):
        runs = [r["run"] for r in sweep.records if r["setting"] == i and r["status"] == DONE]
        values = sweep.curves[metric][runs] if runs else np.empty((0, 0))
        at = np.flatnonzero(np.isfinite(values).any(axis=0)) if runs else np.empty(0, int)
        if not len(at):
            continue
        mean = np.nanmean(values[:, at], axis=0)
        if len(runs) > 1:
            std = np.nanstd(values[:, at], axis=0, ddof=1)
            ax.fill_between(at + 1, mean - std, mean + std, color=color, alpha=0.15, lw=0)
        marker = "o" if len(at) == 1 else None
        label = _label(rows[i], sweep.varied)
        ax.plot(at + 1, mean, color=color, lw=1.8, marker=marker, ms=4, label=label)
    words = metric.replace("_", " ") + (", the best settings" if len(shown) < len(rows) else "")
    _dress(ax, words, metric)
    ax.set_xlabel("round", color=GREY, fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if ax.lines and (len(rows) > 1 or sweep.varied):
        where = "lower right" if better(metric) > 0 else "upper right"
        ax.legend(fontsize=8, frameon=False, labelcolor=INK, loc=where, handlelength=1.4)


def _chosen(rows: Rows, metric: str) -> list[int]:
    """The settings to draw, in the grid's order: all, or the best ones."""
    if len(rows) <= _MOST_CURVES:
        return list(range(len(rows)))
    sign = better(metric) or 1
    means = [row.get(f"final_{metric}_mean") for row in rows]
    known = [i for i, mean in enumerate(means) if mean is not None]
    best = sorted(known, key=lambda i: -sign * float(means[i] or 0.0))
    return sorted(best[:_MOST_CURVES])


def _values_panel(ax: Axes, sweep: Sweep, rows: Rows, metric: str) -> None:
    axis = _axis(rows, sweep.varied)
    others = [n for n in sweep.varied if n != axis]
    lines: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        lines.setdefault(_label(row, others), []).append(i)
    place, ticks = _places(rows, axis)
    for (label, members), color in zip(lines.items(), _colors(len(lines)), strict=True):
        known = [i for i in members if rows[i].get(f"final_{metric}_mean") is not None]
        known.sort(key=lambda i: place[i])
        x = [place[i] for i in known]
        mean = [rows[i][f"final_{metric}_mean"] for i in known]
        std = [rows[i][f"final_{metric}_std"] or 0.0 for i in known]
        faces = ["white" if rows[i]["diverged"] else color for i in known]
        join = "-" if ticks is None else ""
        ax.errorbar(x, mean, std, color=color, lw=1.6, ls=join, capsize=3, label=label or None)
        ax.scatter(x, mean, s=34, color=faces, edgecolors=[color] * len(x), zorder=4, lw=1.4)
    _mark_best(ax, rows, place, metric)
    _dress(ax, f"final {metric.replace('_', ' ')}, mean and standard deviation", metric)
    ax.set_xlabel(axis, color=GREY, fontsize=9)
    if ticks is None:
        _scale(ax, [float(row[axis]) for row in rows])
    else:
        ax.set_xticks(range(len(ticks)), ticks)
        ax.margins(x=0.12)
    if len(lines) > 1:
        ax.legend(fontsize=8, frameon=False, labelcolor=INK, loc="best")
    if any(row["diverged"] for row in rows):
        gone = [row for row in rows if row.get(f"final_{metric}_mean") is None]
        words = f"hollow: a run diverged; {len(gone)} not drawn: all did" if gone else ""
        words = words or "hollow: a run diverged"
        ax.text(0.0, -0.19, words, transform=ax.transAxes, color=GREY, fontsize=8)


def _mark_best(ax: Axes, rows: Rows, place: Sequence[float], metric: str) -> None:
    best = best_row(rows, metric)
    if best is not None:
        x, y = place[best], rows[best][f"final_{metric}_mean"]
        ax.scatter([x], [y], s=150, facecolors="none", edgecolors=ORANGE, lw=1.8, zorder=5)
        words = "best" if better(metric) else "largest"
        ax.annotate(
            words,
            (x, y),
            xytext=(-9, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=ORANGE,
            fontsize=9,
            fontweight="bold",
        )


def _axis(rows: Rows, varied: Sequence[str]) -> str:
    """The varied name to draw along: the first of numbers, or else the first."""
    several = [n for n in varied if len({repr(row[n]) for row in rows}) > 1] or list(varied)
    numeric = [n for n in several if all(_is_number(row[n]) for row in rows)]
    return (numeric or several)[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _places(rows: Rows, axis: str) -> tuple[list[float], list[str] | None]:
    """Where each setting lies, and the names of the places where the axis is no number's."""
    values = [row[axis] for row in rows]
    if all(_is_number(v) for v in values):
        return [float(v) for v in values], None
    names = list(dict.fromkeys(_text(v) for v in values))
    return [float(names.index(_text(v))) for v in values], names


def _scale(ax: Axes, values: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    distinct = sorted(set(values))
    if distinct[0] > 0 and distinct[-1] >= _LOG_RANGE * distinct[0]:
        ax.set_xscale("log")
    if len(distinct) <= _MOST_CURVES:
        ax.xaxis.set_major_locator(FixedLocator(distinct))
        ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _label(row: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{n.rsplit('.', 1)[-1].replace('_', ' ')} {_text(row[n])}" for n in names)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _dress(ax: Axes, title: str, metric: str) -> None:
    from matplotlib.ticker import PercentFormatter

    ax.set_title(title, loc="left", fontsize=10.5, color=INK, pad=8)
    if "accuracy" in metric:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.grid(color=GRID, lw=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", colors=GREY, labelsize=9, length=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(GRID)


def _title(figure: Figure, sweep: Sweep) -> None:
    s = sweep.summary
    seeds = len(s["seeds"])
    parts = [f"{s['settings']} setting{'s' if s['settings'] != 1 else ''}"]
    parts.append(f"{seeds} seed{'s' if seeds != 1 else ''} each")
    if s["diverged"]:
        parts.append(f"{s['diverged']} of {s['runs']} runs diverged")
    if seeds > 1:
        parts.append("bands and bars: one standard deviation over seeds")
    main = f"{s['algorithm']} on {s['federation']}"
    figure.suptitle(main, x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.text(0.012, 0.895, "  \u00b7  ".join(parts), ha="left", fontsize=9, color=GREY)
