"""The picture of the drift panel: do clients pull the same way, and how noisy are they?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjax_sim.diagnostics.drift_reading import read_drift
from fedjax_sim.diagnostics.drift_statistics import CAP
from fedjax_sim.experiment import plots
from fedjax_sim.experiment.palette import BLUE, GREEN, GREY, INK, ORANGE, PURPLE
from fedjax_sim.experiment.plots import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The run's picture and this one share their look; its helpers are of this room, not public.
# pyright: reportPrivateUsage=false

_NOISY_FROM = plots._SMOOTH_FROM

Records = Sequence[Mapping[str, Any]]


def drift_picture(records: Records, summary: Mapping[str, Any]) -> Figure:
    """Direction, dispersion, diversity and noise by round, with what they say in a line on top.

    A panel that has no values is left out: without the noise probe there is no noise panel.

    Args:
      records: as in `metrics.jsonl`; only rounds with a reading of the drift panel are drawn.
      summary: as in `summary.json`; names for the title are taken where they are there.

    Returns:
      A matplotlib figure of 150 dots an inch; opens no window.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [p for p in (_direction, _dispersion, _diversity, _noise) if p(records, None)]
    columns = min(max(len(panels), 1), 2)
    rows = -(-max(len(panels), 1) // 2)
    height = 1.1 + 3.3 * rows
    layout = ConstrainedLayoutEngine(
        w_pad=0.12, h_pad=0.1, wspace=0.06, hspace=0.05, rect=(0, 0, 1, 1 - 0.85 / height)
    )
    size = (1.2 + 4.9 * columns, height)
    figure = Figure(figsize=size, dpi=150, layout=layout, facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        panel(records, ax)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    if not panels:
        plots._empty_panel(axes[0])
    _title(figure, records, summary)
    return figure


def _series(records: Records, name: str, label: str, color: str) -> Series:
    found = plots._series(records, name, label, color)
    return found._replace(noisy=len(found.values) >= _NOISY_FROM)


def _drawn(
    ax: Axes,
    series: Sequence[Series],
    title: str,
    shown: Any,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Curves first: a level's line spans the axes and must not set their range."""
    plots._lines(ax, series)
    plots._dress(ax, title)
    for words, value in (levels or {}).items():
        _level(ax, value, words)
    plots._end_labels(ax, series, shown)


def _direction(records: Records, ax: Axes | None) -> bool:
    series = plots._present(
        _series(records, "drift_cosine", "two clients", BLUE),
        _series(records, "drift_alignment", "client, server", ORANGE),
        _series(records, "drift_per_group_cosine", "two of a group", GREEN),
    )
    if ax is None or not series:
        return bool(series)
    lowest = min(float(np.nanmin(s.values)) for s in series)
    ax.set_ylim(min(-0.05, lowest - 0.05), 1.02)
    title = "direction: mean cosine between \u2026"
    _drawn(ax, series, title, lambda v: f"{v:.2f}", {"": 0.0})
    return True


def _dispersion(records: Records, ax: Axes | None) -> bool:
    series = plots._present(
        _series(records, "drift_dispersion_relative", "dispersion", BLUE),
    )
    if ax is None or not series:
        return bool(series)
    _log(ax, series)
    title = "dispersion of client updates / |mean|\u00b2"
    _drawn(ax, series, title, lambda v: f"{v:.2g}", {"1: as large as their mean": 1.0})
    return True


def _diversity(records: Records, ax: Axes | None) -> bool:
    series = plots._present(
        _series(records, "drift_diversity", "diversity", PURPLE),
    )
    if ax is None or not series:
        return bool(series)
    _log(ax, series)
    least = 1 / max(_cohort(records), 1)
    levels = {f"1/n = {least:.2g}: all alike": least, "1: orthogonal": 1.0}
    _drawn(ax, series, "gradient diversity", lambda v: f"{v:.2g}", levels)
    return True


def _noise(records: Records, ax: Axes | None) -> bool:
    series = plots._present(
        _uncapped(_series(records, "drift_noise_scale", "local batch", GREEN)),
        _uncapped(_series(records, "drift_cohort_size", "cohort", BLUE)),
    )
    if ax is None or not series:
        return bool(series)
    _log(ax, series)
    heard = _cohort(records)
    levels = {f"this run's cohort: {heard:,.0f}": heard}
    _drawn(ax, series, "noise scale: examples, clients at which noise = signal", _count, levels)
    return True


def _cohort(records: Records) -> float:
    """Clients of a typical reading."""
    clients = plots._series(records, "drift_clients", "", GREY).values
    return float(np.nanmedian(clients)) if np.isfinite(clients).any() else 1.0


def _uncapped(series: Series) -> Series:
    """Readings that lost the signal are gaps, and no cliffs."""
    return series._replace(values=np.where(series.values >= 0.99 * CAP, np.nan, series.values))


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _log(ax: Axes, series: Sequence[Series]) -> None:
    """A logarithmic axis where every value is positive."""
    values = np.concatenate([s.values[np.isfinite(s.values)] for s in series])
    if values.min() > 0:
        plots._log_axis(ax)


def _level(ax: Axes, value: float, words: str) -> None:
    """A dashed line with its meaning at the left end."""
    ax.axhline(value, color=GREY, lw=0.9, ls=(0, (4, 3)))
    ax.annotate(
        words,
        (0.01, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        color=GREY,
        fontsize=8,
        bbox={"facecolor": "white", "alpha": 0.7, "pad": 0.6, "lw": 0},
    )


def _title(figure: Figure, records: Records, summary: Mapping[str, Any]) -> None:
    algorithm, data = summary.get("algorithm", "run"), summary.get("federation")
    where = f"{algorithm} on {data}" if data else str(algorithm)
    found = read_drift(records)
    said = "the drift panel read nothing" if found is None else found.sentence
    readings = sum("drift_cosine" in r for r in records)
    count = f"{readings:,} reading{'s' if readings != 1 else ''}"
    height = figure.get_figheight()
    main = f"Do clients agree?  {where}"
    figure.suptitle(
        main, x=0.012, y=1 - 0.12 / height, ha="left", fontsize=13, fontweight="bold", color=INK
    )
    line = f"{said}  \u00b7  {count}"
    figure.text(0.012, 1 - 0.62 / height, line, ha="left", fontsize=9, color=GREY)
