"""The picture of the virtual clock: who received, worked, reported and waited, round by round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedjax_sim.experiment.palette import BLUE, GREEN, GREY, GRID, INK, ORANGE, PURPLE, RED
from fedjax_sim.sampling.round_log import ABSENT, DROPPED, KEPT_ROWS, LATE, REPORTED, RoundLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOWN, _UP, _WAIT = "#b9d3ee", "#7f9cc0", "#eef0f4"
_TIERS = (GREEN, BLUE, PURPLE, ORANGE, "#7a5c3e")
_BESIDE = {LATE: "late: {}", DROPPED: "dropped out"}


class Bar(NamedTuple):
    """One member of a round.

    Attributes:
      client: its id.
      status: see `round_log.ABSENT`.
      group: its tier.
      ends: seconds at which it had received, had worked, and its report was there.
    """

    client: int
    status: int
    group: int
    ends: tuple[float, float, float]


class Panel(NamedTuple):
    """One round.

    Attributes:
      round: counted from 1.
      seconds: how long it took.
      bars: its members, the soonest done first.
    """

    round: int
    seconds: float
    bars: list[Bar]


def panels(log: RoundLog) -> list[Panel]:
    """The rounds of a log in their order; members that were not there are left out."""
    at = np.asarray(log.round)
    rows = log.rows._asdict()
    found = []
    for i in sorted(np.flatnonzero(at >= 0), key=lambda i: at[i]):
        of = {name: np.asarray(values)[i] for name, values in rows.items()}
        bars = []
        for j in np.flatnonzero(of["status"] != ABSENT):
            down = float(of["down_s"][j])
            worked = down + float(of["compute_s"][j])
            ends = (down, worked, worked + float(of["up_s"][j]))
            bars.append(Bar(int(of["id"][j]), int(of["status"][j]), int(of["group"][j]), ends))
        bars.sort(key=lambda bar: bar.ends[2])
        found.append(Panel(int(at[i]) + 1, float(np.asarray(log.seconds)[i]), bars))
    return found


def timeline_picture(
    log: RoundLog, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> Figure:
    """The last rounds of a run as bars in virtual seconds, a row for each member of the cohort.

    Local work is coloured by tier where there are tiers. A bar that goes on beyond the round's
    end is work that came too late.

    Args:
      log: of the sampler's state.
      records: as in `metrics.jsonl`.
      summary: as in `summary.json`; names for the title are taken where they are there.

    Returns:
      A matplotlib figure of 150 dots an inch; opens no window.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = panels(log)
    tiered = any("tier" in r for r in records)
    columns = min(max(len(shown), 1), 3)
    rows = -(-max(len(shown), 1) // columns)
    most = max([len(p.bars) for p in shown], default=1)
    height = 1.75 + rows * (0.75 + 0.17 * max(most, 6))
    layout = ConstrainedLayoutEngine(
        w_pad=0.1,
        h_pad=0.08,
        wspace=0.04,
        hspace=0.04,
        rect=(0, 0.5 / height, 1, 1 - 1.25 / height),
    )
    size = (1.6 + 3.6 * columns, height)
    figure = Figure(figsize=size, dpi=150, layout=layout, facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    deadline = float(np.asarray(log.deadline_s))
    cut = log.rows.id.shape[1] == KEPT_ROWS < summary.get("cohort", KEPT_ROWS)
    for ax, panel in zip(axes, shown, strict=False):
        _panel(ax, panel, deadline, tiered=tiered, most=most, cut=cut)
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    for ax in axes[max(len(shown) - columns, 0) : len(shown)]:
        ax.set_xlabel("virtual seconds from the round's start", color=GREY, fontsize=8.5)
    _title(figure, shown, records, summary)
    _legend(figure, shown, tiered, math.isfinite(deadline))
    return figure


def _panel(ax: Axes, panel: Panel, deadline: float, *, tiered: bool, most: int, cut: bool) -> None:
    end = panel.seconds
    longest = max([end, *(bar.ends[2] for bar in panel.bars)])
    right = min(longest, 1.6 * end) if end > 0 else longest
    names: list[str] = []
    for y, bar in enumerate(panel.bars):
        _bar(ax, y, bar, end, right, tiered)
        names.append(f"{bar.client}")
    ax.axvline(end, color=INK, lw=1.3)
    if math.isfinite(deadline) and deadline <= right * 1.04:
        ax.axvline(deadline, color=RED, lw=1.3, ls=(0, (4, 2)))
    ax.set_xlim(0, right * 1.04)
    ax.set_ylim(max(most, len(panel.bars)) - 0.4, -0.6)
    ax.set_yticks(range(len(names)), names, fontsize=7.5, color=INK)
    reported = sum(bar.status == REPORTED for bar in panel.bars)
    tier = f", tier {panel.bars[0].group + 1}" if tiered and panel.bars else ""
    count = f"{len(panel.bars)}" + (" shown" if cut else "")
    text = f"round {panel.round}{tier}: {_seconds(end)}, {reported} of {count} report"
    ax.set_title(text, loc="left", fontsize=9, color=INK)
    ax.set_ylabel("client", color=GREY, fontsize=8.5)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", colors=GREY, labelsize=8)
    ax.grid(axis="x", color=GRID, lw=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(GRID)


def _bar(ax: Axes, y: int, bar: Bar, end: float, right: float, tiered: bool) -> None:
    """Receiving, working, reporting, waiting; what came too late is pale."""
    received, worked, done = bar.ends
    work = _TIERS[bar.group % len(_TIERS)] if tiered else BLUE
    alpha = 1.0 if bar.status == REPORTED else 0.35
    pieces = ((0.0, received, _DOWN), (received, worked, work), (worked, done, _UP))
    for start, stop, colour in pieces:
        if start < right:
            width = min(stop, right * 1.04) - start
            ax.barh(y, width, left=start, height=0.72, color=colour, alpha=alpha, lw=0)
    if done < end:
        ax.barh(y, end - done, left=done, height=0.72, color=_WAIT, lw=0)
    if bar.status in _BESIDE:
        place = min(max(done, 0.02 * right), 0.98 * right)
        inside = place > 0.6 * right
        ax.annotate(
            _BESIDE[bar.status].format(_seconds(done)),
            (place, y),
            xytext=(-3 if inside else 3, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            fontsize=7,
            color=RED,
            bbox={"facecolor": "white", "alpha": 0.75, "pad": 0.6, "lw": 0},
        )


def _seconds(value: float) -> str:
    if value >= 7200:
        return f"{value / 3600:,.1f} h"
    return f"{value:,.0f} s" if value >= 100 else f"{value:.3g} s"


def _legend(figure: Figure, shown: list[Panel], tiered: bool, deadline: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=_DOWN, label="receives")]
    if tiered:
        seen = sorted({bar.group for panel in shown for bar in panel.bars})
        names = {g: f"works, tier {g + 1}" + (" (fastest)" if g == 0 else "") for g in seen}
        handles += [Patch(color=_TIERS[g % len(_TIERS)], label=n) for g, n in names.items()]
    else:
        handles.append(Patch(color=BLUE, label="works"))
    handles += [Patch(color=_UP, label="reports"), Patch(color=_WAIT, label="waits")]
    handles.append(Line2D([], [], color=INK, lw=1.3, label="round ends"))
    if deadline:
        handles.append(Line2D([], [], color=RED, lw=1.3, ls=(0, (4, 2)), label="deadline"))
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.008, 0.0),
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        columnspacing=1.4,
        handlelength=1.4,
    )


def _title(
    figure: Figure,
    shown: list[Panel],
    records: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> None:
    algorithm, data = summary.get("algorithm", "run"), summary.get("federation")
    where = f"{algorithm} on {data}" if data else str(algorithm)
    height = figure.get_figheight()
    figure.suptitle(
        f"Who waits for whom?  {where}",
        x=0.012,
        y=1 - 0.12 / height,
        ha="left",
        fontsize=13,
        fontweight="bold",
        color=INK,
    )
    figure.text(0.012, 1 - 0.62 / height, _said(shown, records), ha="left", fontsize=9, color=GREY)


def _said(shown: list[Panel], records: Sequence[Mapping[str, Any]]) -> str:
    """The run's time in words, and how much of the drawn rounds was waiting."""
    if not records or "virtual_time_s" not in records[-1]:
        return "no round was timed"
    rounds, whole = len(records), records[-1]["virtual_time_s"]
    texts = [f"{rounds:,} round{'s' if rounds != 1 else ''} in {_seconds(whole)} of virtual time"]
    times = [(min(b.ends[2], p.seconds), p.seconds) for p in shown for b in p.bars]
    if sum(length for _, length in times) > 0:
        busy = sum(b for b, _ in times) / sum(length for _, length in times)
        texts.append(f"in the rounds below a member waits for {1 - busy:.0%} of the time")
    lost = sum(r.get("clients_late", 0) + r.get("clients_dropped", 0) for r in records)
    if lost:
        came = sum(r.get("cohort_present", 0) for r in records)
        texts.append(f"{lost / (lost + came):.0%} of all reports late or lost")
    return "  \u00b7  ".join(texts)
