"""The picture of a federation: label mixes and sizes, client by client and over all."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fedjax_sim.data.federated import Federation
from fedjax_sim.data.report import gini, holdings_table, label_skew

_INK, _PALE, _BAR = "#2b2d42", "#d9dce6", "#5b7db1"
_NAMED = 12
_PALETTE = [
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948",
    "#b07aa1", "#ff9da7", "#9c755f", "#a0a7b8", "#1b4f72", "#7d9b2c",
]  # fmt: skip


def holdings(fed: Federation, *, most: int, seed: int) -> Figure:
    """Draw label shares and sizes of up to `most` clients, and histograms over all N."""
    shown = _sample(fed.n_clients, most, seed)
    figure = Figure(figsize=(11.5, 6.0), dpi=120, layout="constrained", facecolor="white")
    has_labels = fed.n_classes is not None
    counts = holdings_table(fed, shown) if has_labels else None
    if counts is not None:
        order = _by_dominant(counts)
        shown, counts = shown[order], counts[order]
        grid = figure.add_gridspec(2, 2, width_ratios=(3.2, 1), height_ratios=(1.9, 1))
        _draw_mix(figure, figure.add_subplot(grid[0, 0]), counts)
        _draw_effective(figure.add_subplot(grid[0, 1]), counts)
        below, beside = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    else:
        shown = shown[np.argsort(-fed.train.sizes[shown], kind="stable")]
        grid = figure.add_gridspec(1, 2, width_ratios=(3.2, 1))
        below, beside = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    _draw_sizes(below, fed, shown, "by most frequent label" if has_labels else "largest first")
    _draw_histogram(beside, fed.train.sizes)
    figure.suptitle(
        f"{fed.name}: {_clients(fed.n_clients)}, {int(fed.train.sizes.sum()):,} examples",
        fontsize=13, fontweight="bold", color=_INK, x=0.01, ha="left",
    )  # fmt: skip
    return figure


def _clients(n_clients: int) -> str:
    return f"{n_clients:,} client" + ("" if n_clients == 1 else "s")


def _sample(n_clients: int, most: int, seed: int) -> np.ndarray:
    if n_clients <= most:
        return np.arange(n_clients)
    return np.sort(np.random.default_rng(seed).choice(n_clients, most, replace=False))


def _by_dominant(counts: np.ndarray) -> np.ndarray:
    """Clients of one dominant label side by side, the purest first."""
    skew = label_skew(counts)["largest"]
    return np.lexsort((-skew, counts.argmax(axis=1)))


def _colors(n_classes: int) -> np.ndarray:
    if n_classes <= _NAMED:
        return np.array([tuple(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)) for c in _PALETTE])
    return matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, n_classes))


def _style(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=10, color=_INK, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa0b0")
    axes.tick_params(colors="#5a5f70", labelsize=8.5)
    axes.xaxis.label.set(color="#5a5f70", fontsize=9)
    axes.yaxis.label.set(color="#5a5f70", fontsize=9)


def _draw_mix(figure: Figure, axes: Any, counts: np.ndarray) -> None:
    """Shares of every label as stacked columns."""
    n, n_classes = counts.shape
    colors = _colors(n_classes)
    tops = np.cumsum(counts / counts.sum(axis=1, keepdims=True), axis=1)
    client, label = np.nonzero(counts)
    high = tops[client, label]
    low = high - (counts / counts.sum(axis=1, keepdims=True))[client, label]
    left, right = client - 0.5, client + 0.5
    corners = np.stack([[left, low], [right, low], [right, high], [left, high]])
    boxes = corners.transpose(2, 0, 1)  # [cells, 4, 2]: one collection draws fast for any C
    axes.add_collection(
        PolyCollection(list(boxes), facecolors=colors[label], linewidths=0, antialiased=False)
    )
    place = np.arange(n)
    if n <= 300:
        axes.vlines(place[1:] - 0.5, 0, 1, color="white", linewidth=min(1.5, 60 / n))
    axes.set(xlim=(-0.5, n - 0.5), ylim=(0, 1), xticks=[], yticks=[0, 0.5, 1])
    axes.set_yticklabels(["0 %", "50 %", "100 %"])
    _style(axes, "Label mix of each client")
    axes.spines["bottom"].set_visible(False)
    if n_classes <= _NAMED:
        handles = [Patch(color=colors[c], label=str(c)) for c in range(n_classes)]
        axes.legend(
            handles=handles, ncols=n_classes, loc="lower right", bbox_to_anchor=(1.0, 1.0),
            frameon=False, fontsize=8.5, handlelength=0.9, handleheight=0.9, columnspacing=0.8,
            handletextpad=0.35, borderaxespad=0.15, labelcolor=_INK,
        )  # fmt: skip
    else:
        scale = ScalarMappable(Normalize(-0.5, n_classes - 0.5), ListedColormap(colors))
        bar = figure.colorbar(scale, ax=axes, pad=0.01, fraction=0.025)
        bar.set_label("label", fontsize=9, color="#5a5f70")
        bar.ax.tick_params(labelsize=8.5, colors="#5a5f70")
        bar.outline.set_visible(False)


def _draw_effective(axes: Any, counts: np.ndarray) -> None:
    """Histogram of the effective number of classes of the drawn clients."""
    effective, n_classes = label_skew(counts)["effective"], counts.shape[1]
    bins = np.linspace(1, max(n_classes, 2), min(4 * max(n_classes, 2), 41))
    axes.hist(effective, bins=bins, color=_BAR)
    axes.axvline(effective.mean(), color="#e15759", linewidth=1.5)
    axes.set(xlabel="effective classes (exp of entropy)", ylabel="clients drawn on the left")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _style(axes, f"Label diversity, mean {effective.mean():.2f} of {n_classes}")


def _draw_sizes(axes: Any, fed: Federation, shown: np.ndarray, sorting: str) -> None:
    sizes = fed.train.sizes[shown]
    axes.bar(np.arange(len(shown)), sizes, 1.0, color=_BAR, edgecolor="white", linewidth=0.4)
    if sizes.max() > 50 * np.median(sizes):
        axes.set_yscale("log")
    axes.set(xlim=(-0.5, len(shown) - 0.5), xticks=[], ylabel="examples")
    what = "" if len(shown) == fed.n_clients else f"a random {len(shown)} of "
    axes.set_xlabel(f"{what}{_clients(fed.n_clients)}, {sorting}")
    _style(axes, "Examples of each client")


def _draw_histogram(axes: Any, sizes: np.ndarray) -> None:
    low, high = int(sizes.min()), int(sizes.max())
    wide = high > 30 * low
    if wide:
        axes.set_xscale("log")
        bins = np.geomspace(low, high + 1, 31)
    else:
        step = max(1, -(-(high - low + 1) // 30))
        bins = np.arange(low, high + step + 1, step) - 0.5
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.hist(sizes, bins=bins, color=_BAR)
    axes.axvline(np.median(sizes), color="#e15759", linewidth=1.5)
    axes.set(xlabel="examples" + (" (log scale)" if wide else ""), ylabel="clients")
    if high == low:
        axes.set(xlim=(low - 2, high + 2), xticks=[low])
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    _style(axes, f"Sizes, median {np.median(sizes):,.6g}, Gini {gini(sizes):.2f}")
