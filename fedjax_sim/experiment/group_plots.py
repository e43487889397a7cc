"""The picture of a federation's groups: a map, label mixes, similarities, why so many."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjax_sim.data.report import holdings_table
from fedjax_sim.experiment.group_features import LABELS
from fedjax_sim.experiment.palette import BLUE, GREY, GRID, INK, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedjax_sim.experiment.group import Grouping

_COLOURS = (
    "#2f6db3", "#e08214", "#3d9a50", "#c0392b", "#8d5fb8", "#17a2b8",
    "#b5892e", "#d36fa6", "#7d9b2c", "#5d6d7e", "#1b4f72", "#a04000",
)  # fmt: skip
_MARKERS = "osD^vP*X"
_MAPPED, _ROWS, _SQUARE = 2000, 400, 500
_HEAD = 0.66  # inches


def colours(k: int) -> list[str]:
    """One colour a group, the same ones again after a dozen."""
    return [_COLOURS[i % len(_COLOURS)] for i in range(k)]


def picture(g: Grouping) -> Figure:
    """Draw the groups.

    Args:
      g: what `group` found. Of many clients a random part is drawn: 2,000 on the map, 400 label
        mixes; similarities only of up to 500 clients.

    Returns:
      A matplotlib figure of 150 dots an inch; opens no window.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels: list[tuple[str, Callable[[Axes], None]]] = [
        (f"clients by {g.by}, two principal axes", lambda ax: _map(ax, g))
    ]
    if g.federation.n_classes is not None:
        panels.append(("label mix of each client", lambda ax: _mixes(ax, g)))
    if len(g.ids) <= _SQUARE:
        panels.append((f"cosine of clients' {g.by}", lambda ax: _square(ax, g)))
    if g.count is not None and g.count.tried:
        panels.append(("is a further split more than chance?", lambda ax: _choice(ax, g)))
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    height = 4.2 * rows + _HEAD
    layout = ConstrainedLayoutEngine(
        w_pad=0.1, h_pad=0.1, wspace=0.05, hspace=0.06, rect=(0, 0, 1, 1 - _HEAD / height)
    )
    size = (5.6 * columns, height)
    figure = Figure(figsize=size, dpi=150, layout=layout, facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, draw) in zip(axes, panels, strict=False):
        draw(ax)
        ax.set_title(name, fontsize=10.5, color=INK, loc="left")
        ax.tick_params(colors=GREY, labelsize=8.5)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    _head(figure, g, height)
    return figure


def _head(figure: Figure, g: Grouping, height: float) -> None:
    first, second = 1 - 0.22 / height, 1 - 0.48 / height
    figure.text(
        0.012, first, g.federation.name, fontsize=13, fontweight="bold", color=INK, va="center"
    )
    n, many = len(g.ids), "" if g.k == 1 else "s"
    said = [f"{n:,} clients", f"{g.k} group{many} by {g.by} ({g.kernel})"]
    if g.planted is not None:
        truth = len(np.unique(g.planted))
        said.append(f"{truth} planted: ARI {g.scores['ari']:.3f}, NMI {g.scores['nmi']:.3f}")
    figure.text(0.012, second, "  \u00b7  ".join(said), fontsize=9.5, color=GREY, va="center")


def _some(n: int, most: int) -> np.ndarray:
    """Clients that are drawn: all, or a random part in order."""
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(0).permutation(n)[:most])


def _map(ax: Axes, g: Grouping) -> None:
    """Two principal axes, coloured by group found, shaped by group planted."""
    shown = _some(len(g.ids), _MAPPED)
    about = g.features[shown] - g.features[shown].mean(axis=0)
    left, length, _ = np.linalg.svd(about, full_matrices=False)
    place = left[:, :2] * length[:2]
    if place.shape[1] < 2:
        place = np.pad(place, ((0, 0), (0, 2 - place.shape[1])))
    ids, palette = g.ids[shown], colours(g.k)
    truth = np.zeros(len(shown), int) if g.planted is None else g.planted[shown]
    size = float(np.clip(2500 / len(shown), 6, 46))
    for i in (*range(g.k), -1):
        for t in np.unique(truth):
            here = (ids == i) & (truth == t)
            colour = palette[i] if i >= 0 else "#bcc0cc"
            ax.scatter(
                *place[here].T, s=size, color=colour, marker=_MARKERS[t % len(_MARKERS)],
                alpha=0.85, edgecolors="white", linewidths=0.5,
            )  # fmt: skip
    _legend(ax, g, palette, truth)
    share = length[:2] ** 2 / max(float(np.sum(length**2)), 1e-300)
    ax.set_xlabel(f"first axis, {share[0]:.0%} of the variance", color=GREY, fontsize=9)
    second = share[1] if len(share) > 1 else 0.0
    ax.set_ylabel(f"second axis, {second:.0%}", color=GREY, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color=GRID, lw=0.6)
    ax.set_axisbelow(True)
    ax.margins(0.08)


def _legend(ax: Axes, g: Grouping, palette: list[str], truth: np.ndarray) -> None:
    from matplotlib.lines import Line2D

    def mark(name: str, colour: str, shape: str) -> Line2D:
        return Line2D([], [], ls="", marker=shape, color=colour, ms=5.5, label=name)

    entries = [mark(f"group {i}", palette[i], "o") for i in range(min(g.k, 12))]
    kinds = np.unique(truth)
    if g.planted is not None and len(kinds) <= len(_MARKERS):
        entries += [mark(f"planted {t}", GREY, _MARKERS[t % len(_MARKERS)]) for t in kinds]
    ax.legend(
        handles=entries, fontsize=7.5, frameon=True, framealpha=0.8, edgecolor="none",
        handletextpad=0.1, labelcolor=INK, ncols=1 + (len(entries) > 8), borderaxespad=0.2,
        columnspacing=0.6,
    )  # fmt: skip


def _ordered(g: Grouping, shown: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    """Clients group by group (those in none last), within a group by their main label."""
    ids = np.where(g.ids[shown] < 0, g.k, g.ids[shown])
    main = np.zeros(len(shown), int) if counts is None else counts.argmax(axis=1)
    return np.lexsort((main, ids))


def _edges(ids: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.diff(ids)) + 0.5


def _strip(ax: Axes, g: Grouping, ids: np.ndarray) -> None:
    """The groups' colours beside rows that are in order of groups, and their numbers."""
    cuts = np.concatenate([[-0.5], _edges(ids), [len(ids) - 0.5]])
    palette = colours(g.k)
    for low, high in itertools.pairwise(cuts):
        i = int(ids[int(low + 1)])
        colour = palette[i] if i >= 0 else "#bcc0cc"
        ax.plot(
            [-0.012, -0.012], [low, high], color=colour, lw=5, solid_capstyle="butt",
            transform=ax.get_yaxis_transform(), clip_on=False,
        )  # fmt: skip
        if high - low >= len(ids) / 30:
            ax.text(
                -0.035, (low + high) / 2, str(i) if i >= 0 else "-", ha="right", va="center",
                fontsize=8.5, color=INK, transform=ax.get_yaxis_transform(),
            )  # fmt: skip
    ax.set_yticks([])
    ax.set_ylabel("clients, group by group", color=GREY, fontsize=9, labelpad=18)


def _mixes(ax: Axes, g: Grouping) -> None:
    shown = _some(len(g.ids), _ROWS)
    counts = holdings_table(g.federation, shown)
    order = _ordered(g, shown, counts)
    counts, ids = counts[order], g.ids[shown][order]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawn = ax.imshow(shares, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
    for edge in _edges(ids):
        ax.axhline(edge, color="white", lw=1.6)
    _strip(ax, g, ids)
    ax.set_xlabel("label", color=GREY, fontsize=9)
    if shares.shape[1] <= 20:
        ax.set_xticks(range(shares.shape[1]))
    _bar(ax, drawn, "share")
    _frame(ax)


def _square(ax: Axes, g: Grouping) -> None:
    counts = None
    if g.federation.n_classes is not None and g.by == LABELS:
        counts = holdings_table(g.federation)
    order = _ordered(g, np.arange(len(g.ids)), counts)
    x = g.features[order]
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    look: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}
    if g.by == LABELS:
        look = {"cmap": "Blues", "vmin": 0, "vmax": 1}
    drawn = ax.imshow(unit @ unit.T, interpolation="nearest", aspect="auto", **look)
    ids = g.ids[order]
    for edge in _edges(ids):
        ax.axhline(edge, color=INK, lw=0.8)
        ax.axvline(edge, color=INK, lw=0.8)
    _strip(ax, g, ids)
    ax.set_xticks([])
    ax.set_xlabel("the same clients", color=GREY, fontsize=9)
    _bar(ax, drawn, "cosine")
    _frame(ax)


def _bar(ax: Axes, drawn: Any, name: str) -> None:
    bar = ax.figure.colorbar(drawn, ax=ax, pad=0.02, fraction=0.045)
    bar.set_label(name, color=GREY, fontsize=9)
    bar.ax.tick_params(labelsize=8, colors=GREY)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def _frame(ax: Axes) -> None:
    for spine in ax.spines.values():
        spine.set_visible(False)


def _choice(ax: Axes, g: Grouping) -> None:
    """What each further split explains, beside chance and what it must exceed."""
    c = g.count
    assert c is not None
    place = np.arange(len(c.tried))

    def lowered(values: tuple[float, ...]) -> np.ndarray:
        return 100 * (1 - np.exp(-np.asarray(values)))

    gains, chance, bars = (lowered(v) for v in (c.gains, c.chance, c.bars))
    taken = np.asarray(c.gains) > np.asarray(c.bars)
    top = max(*gains, *bars, 1.0)
    ax.bar(place, gains, 0.62, color=[BLUE if t else "#c4c8d4" for t in taken])
    ax.hlines(bars, place - 0.4, place + 0.4, color=RED, lw=1.8)
    ax.hlines(chance, place - 0.4, place + 0.4, color=GREY, lw=1.2, ls=(0, (2, 1.5)))
    for at, value, bar in zip(range(len(place)), gains, bars, strict=True):
        ax.text(
            at, max(value, bar) + 0.015 * top, f"{value:.0f} %", ha="center",
            fontsize=8.5, color=INK,
        )  # fmt: skip
    ax.set_xticks(place, [f"{k} \u2192 {k + 1}" for k in c.tried])
    ax.set_xlim(-0.7, max(len(place), 3) - 0.3)
    ax.set_ylim(0, 1.25 * top)
    ax.set_xlabel("split into one group more", color=GREY, fontsize=9)
    ax.set_ylabel("inertia explained, %", color=GREY, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Any] = [
        Patch(color=BLUE, label="counts"),
        Patch(color="#c4c8d4", label="does not"),
        Line2D([], [], color=RED, lw=1.8, label="needed to count"),
        Line2D([], [], color=GREY, lw=1.2, ls=(0, (2, 1.5)), label="chance"),
    ]
    ax.legend(handles=entries, fontsize=7.5, frameon=False, ncols=2, loc="upper right")
