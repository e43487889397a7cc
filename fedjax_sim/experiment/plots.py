"""The picture of a run: accuracy and losses by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedjax_sim.experiment.palette import BLUE, GREEN, GREY, GRID, INK, ORANGE, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_VERDICTS = {
    "converged": GREEN,
    "converging": BLUE,
    "stagnating": ORANGE,
    "oscillating": ORANGE,
    "diverging": RED,
}
_SMOOTH_FROM = 40
_GAP = 0.075
_LOG_RANGE = 50.0


class Series(NamedTuple):
    """One curve.

    Attributes:
      label: written at its end.
      rounds: float `[n]`.
      values: float `[n]`, NaN where a record has null.
      color: of line and label.
      noisy: drawn pale, with its running mean on top.
    """

    label: str
    rounds: np.ndarray
    values: np.ndarray
    color: str
    noisy: bool = False


def curves(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Figure:
    """Accuracy (with the clients' 10 to 90 % band and their worst tenth) and losses by round.

    A panel whose values no round has is left out: without an evaluation only the training
    loss is drawn, and where no model is shared only what clients measured.

    Args:
      records: as in `metrics.jsonl`.
      summary: as in `summary.json`; names for the title are taken where they are there.

    Returns:
      A matplotlib figure of 150 dots an inch; opens no window.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    accuracies = _present(
        _series(records, "test_accuracy", "test", BLUE),
        _series(records, "client_accuracy_mean", "clients' mean", GREEN),
    )
    losses = _present(
        _series(records, "test_loss", "test", BLUE),
        _series(records, "client_loss_mean", "clients' mean", GREEN),
        _series(records, "train_loss", "train", ORANGE, noisy=True),
    )
    panels = [kind for kind, found in (("accuracy", accuracies), ("loss", losses)) if found]
    width = 6.0 + 4.8 * max(len(panels) - 1, 0)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.06, rect=(0, 0, 1, 0.95))
    figure = Figure(figsize=(width, 4.5), dpi=150, layout=layout, facecolor="white")
    axes = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
    for ax, kind in zip(axes, panels, strict=False):
        if kind == "accuracy":
            _accuracy_panel(ax, records, accuracies)
        else:
            _loss_panel(ax, losses)
    if not panels:
        _empty_panel(axes[0])
    _title(figure, summary, len(records))
    return figure


def _series(
    records: Sequence[Mapping[str, Any]], name: str, label: str, color: str, noisy: bool = False
) -> Series:
    having = [r for r in records if name in r]
    rounds = np.array([r["round"] for r in having], float)
    values = np.array([np.nan if r[name] is None else r[name] for r in having], float)
    return Series(label, rounds, values, color, noisy)


def _present(*series: Series) -> list[Series]:
    return [s for s in series if np.isfinite(s.values).any()]


def _accuracy_panel(
    ax: Axes, records: Sequence[Mapping[str, Any]], series: Sequence[Series]
) -> None:
    from matplotlib.ticker import PercentFormatter

    low = _series(records, "client_accuracy_p10", "", GREEN)
    high = _series(records, "client_accuracy_p90", "", GREEN)
    banded = len(low.rounds) > 1 and len(low.rounds) == len(high.rounds)
    worst = _series(records, "client_accuracy_worst10", "", GREEN)
    tailed = banded and bool(np.isfinite(worst.values).any())
    if banded:
        ax.fill_between(low.rounds, low.values, high.values, color=GREEN, alpha=0.13, lw=0)
    if tailed:
        ax.plot(worst.rounds, worst.values, color=GREEN, lw=1.2, ls=(0, (4, 2)))
    _lines(ax, series)
    least = min(np.nanmin(s.values) for s in series)
    for lower in (low, worst) if banded else ():
        if np.isfinite(lower.values).any():
            least = min(least, np.nanpercentile(lower.values, 10))
    bottom = max(0.0, np.floor((least - 0.02) * 10) / 10)
    ax.set_ylim(bottom, 1.0 + 0.02 * (1.0 - bottom))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _dress(ax, "accuracy")
    _end_labels(ax, series, lambda v: f"{100 * v:.1f} %")
    if banded:
        words = "shaded: 10th to 90th percentile of clients"
        words += "\ndashed: mean of the worst tenth" if tailed else ""
        ax.text(0.99, 0.03, words, transform=ax.transAxes, ha="right", color=GREEN, fontsize=8)


def _loss_panel(ax: Axes, series: Sequence[Series]) -> None:
    _lines(ax, series)
    values = np.concatenate([s.values[np.isfinite(s.values)] for s in series])
    if values.min() > 0 and values.max() > _LOG_RANGE * values.min():
        _log_axis(ax)
    elif values.min() >= 0:
        ax.set_ylim(bottom=0)
    _dress(ax, "loss")
    _end_labels(ax, series, lambda v: f"{v:.3g}")


def _log_axis(ax: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _lines(ax: Axes, series: Sequence[Series]) -> None:
    for s in series:
        single = np.isfinite(s.values).sum() == 1
        smooth = s.noisy and len(s.values) >= _SMOOTH_FROM
        ax.plot(
            s.rounds,
            s.values,
            color=s.color,
            lw=0.9 if smooth else 1.9,
            alpha=0.35 if smooth else 1.0,
            marker="o" if single else None,
            ms=5,
            solid_capstyle="round",
        )
        if smooth:
            ax.plot(s.rounds, _running_mean(s.values), color=s.color, lw=1.9)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a centred window of a tenth of the curve, cut off at its ends.

    Geometric where all values are positive, so that a spike on a logarithmic axis does not
    lift its whole neighbourhood.
    """
    good = np.isfinite(values)
    positive = bool((values[good] > 0).all())
    terms = np.where(good, values, 1.0)
    terms = np.where(good, np.log(terms) if positive else terms, 0.0)
    total = np.concatenate([[0.0], np.cumsum(terms)])
    count = np.concatenate([[0], np.cumsum(good)])
    at, half = np.arange(len(values)), max(len(values) // 20, 2)
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    seen = count[last] - count[first]
    mean = (total[last] - total[first]) / np.maximum(seen, 1)
    return np.where(seen > 0, np.exp(mean) if positive else mean, np.nan)


def _end_labels(ax: Axes, series: Sequence[Series], shown: Any) -> None:
    """Name and last value at each curve's end, moved apart where they would overlap."""
    ends = []
    for s in series:
        last = int(np.flatnonzero(np.isfinite(s.values))[-1])
        values = _running_mean(s.values) if s.noisy and len(s.values) >= _SMOOTH_FROM else s.values
        height = _height(ax, values[last])
        ends.append((height, s, s.values[last]))
        ax.plot(s.rounds[last], values[last], "o", color=s.color, ms=5, clip_on=False, zorder=5)
    ends.sort(key=lambda end: end[0])
    for height, (_, s, value) in zip(_apart([e[0] for e in ends]), ends, strict=True):
        ax.text(
            1.025,
            height,
            f"{s.label}\n{shown(value)}",
            transform=ax.transAxes,
            color=s.color,
            va="center",
            fontsize=9,
            fontweight="bold",
            linespacing=1.25,
        )


def _height(ax: Axes, value: float) -> float:
    """Where a value lies on the axis, 0 at the bottom and 1 at the top."""
    point = ax.transAxes.inverted().transform(ax.transData.transform((1.0, value)))
    return float(np.clip(point[1], 0.0, 1.0))


def _apart(heights: Sequence[float], gap: float = 2 * _GAP) -> list[float]:
    """Sorted heights moved as little as needed to be `gap` apart and inside 0 .. 1."""
    out = list(heights)
    for i in range(1, len(out)):
        out[i] = max(out[i], out[i - 1] + gap)
    top = 1.0
    for i in reversed(range(len(out))):
        out[i] = min(out[i], top)
        top = out[i] - gap
    return out


def _dress(ax: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_title(title, loc="left", fontsize=10.5, color=INK, pad=8)
    ax.set_xlabel("round", color=GREY, fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    rounds = np.concatenate([np.asarray(line.get_xdata(), float) for line in ax.lines])
    if rounds.min() < rounds.max():
        ax.set_xlim(rounds.min(), rounds.max())
    else:
        ax.set_xlim(rounds.min() - 0.5, rounds.max() + 0.5)
        ax.set_xticks([int(rounds.min())])
    ax.grid(color=GRID, lw=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", colors=GREY, labelsize=9, length=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(GRID)


def _empty_panel(ax: Axes) -> None:
    ax.set_axis_off()
    words = "no finite value was recorded"
    ax.text(0.5, 0.5, words, ha="center", color=GREY, transform=ax.transAxes)


def _title(figure: Figure, summary: Mapping[str, Any], rounds: int) -> None:
    algorithm, data = summary.get("algorithm", "run"), summary.get("federation")
    main = f"{algorithm} on {data}" if data else str(algorithm)
    parts = []
    if "clients" in summary:
        parts.append(f"{summary['clients']:,} clients")
    if summary.get("cohort"):
        parts.append(f"{summary['cohort']:,} a round")
    parts.append(f"{rounds:,} round{'s' if rounds != 1 else ''}")
    model = summary.get("facts", {}).get("model")
    parts += [model] if model else []
    parts += [f"seed {summary['seed']}"] if "seed" in summary else []
    if summary.get("status", "done") != "done":
        parts.append(str(summary["status"]))
    found = summary.get("verdict")
    if found:
        color = _VERDICTS.get(found["name"], GREY)
        words: dict[str, Any] = {"ha": "right", "fontsize": 10, "fontweight": "bold"}
        figure.text(0.988, 0.955, f"verdict: {found['name']}", color=color, **words)
    figure.suptitle(main, x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.text(0.012, 0.885, "  \u00b7  ".join(parts), ha="left", fontsize=9, color=GREY)
