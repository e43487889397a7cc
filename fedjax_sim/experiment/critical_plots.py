"""The picture of a probe: the spectrum, the way down, the clients, and how all that moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjax_sim.experiment.palette import BLUE, GREEN, GREY, GRID, INK, ORANGE, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = {
    "not stationary": BLUE,
    "local minimum": GREEN,
    "saddle": RED,
    "flat": ORANGE,
}
_BINS_A_DECADE = 4

Facts = Mapping[str, Any]


def picture(points: Sequence[Facts], title: str) -> Figure:
    """Draw one point, or the last of several with the course of all.

    Args:
      points: as in `probe.json`, oldest first.
      title: of the run.

    Returns:
      A matplotlib figure of 150 dots an inch; opens no window.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    last = points[-1]
    panels: list[tuple[str, Callable[[Axes], None]]] = [
        ("eigenvalues of the Hessian", lambda ax: _spectrum(ax, last)),
        (_walk_title(last), lambda ax: _walk(ax, last)),
    ]
    if last.get("clients"):
        panels.append(("clients' own curvatures", lambda ax: _clients(ax, last)))
    if len(points) > 1:
        panels.append(("course of the run", lambda ax: _course(ax, points)))
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    layout = ConstrainedLayoutEngine(
        w_pad=0.12, h_pad=0.12, wspace=0.05, hspace=0.06, rect=(0, 0, 1, 1 - 0.62 / (4.3 * rows))
    )
    size = (5.6 * columns, 4.3 * rows)
    figure = Figure(figsize=size, dpi=150, layout=layout, facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, draw) in zip(axes, panels, strict=False):
        draw(ax)
        _dress(ax, name)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    _head(figure, last, title, size[1])
    return figure


def _head(figure: Figure, last: Facts, title: str, height: float) -> None:
    kind = last["kind"]
    shown = f"degenerate {kind}" if last["degenerate"] and kind == "saddle" else kind
    first, second = 1 - 0.24 / height, 1 - 0.5 / height
    figure.text(
        0.012, first, f"{title}, {last['name']}", fontsize=13, fontweight="bold", color=INK,
        va="center",
    )  # fmt: skip
    figure.text(
        0.988, first, shown, fontsize=13, fontweight="bold", color=_KINDS[kind], ha="right",
        va="center",
    )  # fmt: skip
    facts = [
        f"{last['parameters']:,} parameters",
        f"loss {last['loss']:.4g}",
        f"gradient {last['gradient_norm']:.2g}",
        f"eigenvalues {last['low']['value']:.3g} to {last['high']['value']:.3g}",
    ]
    words = "  \u00b7  ".join(facts)
    figure.text(0.012, second, words, fontsize=9, color=GREY, va="center")


def _spectrum(ax: Axes, point: Facts) -> None:
    """How many eigenvalues lie where, both axes logarithmic, zero in the middle."""
    found, zero = point["spectrum"], point["scales"]["zero"]
    values, weights = (np.asarray(found[n], float) for n in ("values", "weights"))
    counts = weights * point["parameters"]
    size = max(float(np.max(np.abs(values))), 2 * zero, 1e-300)
    inner = min(max(zero, 1e-6 * size), size / 10)
    edges = _edges(inner, size)
    heights, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges, weights=counts)
    least = min(0.5, float(np.min(heights[heights > 0])) / 2)
    left, right = edges[:-1], edges[1:]
    below, above = right <= -inner * 0.999, left >= inner * 0.999
    colors = np.where(below, RED, np.where(above, BLUE, GREY))
    ax.set_xscale("symlog", linthresh=inner, linscale=0.5)
    ax.set_yscale("log")
    ax.bar(left, heights, right - left, align="edge", color=list(colors), lw=0)
    ax.set_ylim(least, 6 * float(np.max(heights)))
    ax.set_xlim(1.3 * edges[0], 1.3 * edges[-1])
    for end, color in (("low", RED), ("high", BLUE)):
        value = point[end]["value"]
        if abs(value) > inner:
            ax.axvline(value, color=color, lw=1, ls=":")
    how = "exact" if found["exact"] else "estimated by quadrature"
    ax.set_xlabel("eigenvalue", color=GREY, fontsize=9)
    ax.set_ylabel(f"how many ({how})", color=GREY, fontsize=9)
    _sparse_ticks(ax, inner, size)
    notes = [
        (f"{point['negative']:,} negative", RED, 0.02, "left"),
        (f"{point['flat']:,} {'flat' if found['exact'] else 'near zero'}", GREY, 0.5, "center"),
    ]
    rest = point["parameters"] - point["negative"] - point["flat"]
    notes.append((f"{max(rest, 0):,} positive", BLUE, 0.98, "right"))
    for words, color, at, side in notes:
        ax.text(
            at, 0.97, words, transform=ax.transAxes, color=color, ha=side, va="top", fontsize=9,
            fontweight="bold", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip


def _edges(inner: float, size: float) -> np.ndarray:
    """Edges of bins: one around zero, then some a decade on both sides."""
    decades = np.log10(size / inner)
    many = max(2, int(np.ceil(decades * _BINS_A_DECADE)))
    outer = inner * (size / inner) ** (np.arange(many + 1) / many)
    return np.concatenate([-outer[::-1], outer])


def _sparse_ticks(ax: Axes, inner: float, size: float) -> None:
    """Powers of ten that are far enough apart to be read."""
    low, high = int(np.ceil(np.log10(inner))), int(np.floor(np.log10(size)))
    apart = max(1, -(-(high - low + 1) // 3))
    powers = 10.0 ** np.arange(high, low - 1, -apart)
    ticks = np.concatenate([-powers, [0.0], powers[::-1]])
    ax.set_xticks(ticks)
    ax.set_xticklabels([_power(t) for t in ticks])
    ax.minorticks_off()


def _power(value: float) -> str:
    if not value:
        return "0"
    exponent = round(np.log10(abs(value)))
    sign = "-" if value < 0 else ""
    return f"{sign}{abs(value):g}" if -2 <= exponent <= 2 else f"${sign}10^{{{exponent}}}$"


def _walk_title(point: Facts) -> str:
    where = {
        "not stationary": "loss down the gradient",
        "saddle": "loss along the way out",
        "local minimum": "loss along the lowest curvature",
        "flat": "loss along any direction",
    }
    return where[point["kind"]]


def _walk(ax: Axes, point: Facts) -> None:
    """The loss along the walk's direction, and what the quadratic model promised."""
    way = point["walk"]
    distances = np.array(point["profile"]["distances"], float)
    changes = np.array(point["profile"]["changes"], float)
    fine = np.linspace(distances[0], distances[-1], 200)
    model = way["slope"] * fine + 0.5 * way["curvature"] * fine**2
    good = changes[np.isfinite(changes)]
    room = max(float(np.ptp(good)) if len(good) else 0.0, 1e-300)
    if not (point["kind"] == "saddle" and point["degenerate"]):
        seen = np.where(np.abs(model) <= 3 * room, model, np.nan)
        ax.plot(fine, seen, color=GREY, lw=1.2, ls="--", label="quadratic model")
    ax.plot(distances, changes, color=INK, lw=1.9, label="the loss itself")
    ax.plot(0, 0, "o", color=_KINDS[point["kind"]], ms=7, zorder=5)
    if way["verified"] > 0 and point["kind"] in ("saddle", "not stationary"):
        ax.plot(way["step"], -way["verified"], "v", color=GREEN, ms=7, zorder=5)
        ax.annotate(
            f"{-way['verified']:.2g}",
            (way["step"], -way["verified"]),
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
            color=GREEN,
            fontsize=9,
            fontweight="bold",
        )
    low, high = (np.min(good), np.max(good)) if len(good) else (0.0, 1.0)
    ax.set_ylim(low - 0.18 * room, high + 0.12 * room)
    ax.axhline(0, color=GRID, lw=1)
    ax.set_xlabel("distance from the model", color=GREY, fontsize=9)
    ax.set_ylabel("change of the loss", color=GREY, fontsize=9)
    ax.legend(frameon=False, fontsize=8, labelcolor=GREY, loc="best")


def _clients(ax: Axes, point: Facts) -> None:
    """Each client's lowest to highest eigenvalue, coloured by its own kind of point."""
    rows = point["clients"]
    low, high = (np.array(rows[n], float) for n in ("low", "high"))
    order = np.argsort(high)
    inner = max(point["scales"]["zero"], 1e-6 * float(np.max(np.abs([low, high]))), 1e-300)
    ax.set_xscale("symlog", linthresh=inner, linscale=0.5)
    for height, i in enumerate(order):
        color = _KINDS[rows["kinds"][i]]
        ax.plot([low[i], high[i]], [height, height], color=color, lw=2, solid_capstyle="round")
        ax.plot([low[i], high[i]], [height, height], "o", color=color, ms=4)
    for end, color in (("low", RED), ("high", BLUE)):
        ax.axvline(point[end]["value"], color=color, lw=1, ls=":")
    ax.axvline(0, color=GREY, lw=0.8)
    few = len(order) <= 20
    ax.set_yticks(range(len(order)) if few else [])
    ax.set_yticklabels([str(rows["ids"][i]) for i in order] if few else [])
    ax.set_ylabel("client", color=GREY, fontsize=9)
    ax.set_xlabel("lowest to highest eigenvalue (dotted: the federation's)", color=GREY, fontsize=9)
    _sparse_ticks(ax, inner, float(np.max(np.abs([low, high, [1.01 * inner] * len(low)]))))
    seen = [kind for kind in _KINDS if kind in rows["kinds"]]
    for place, kind in enumerate(reversed(seen)):
        words = f"{rows['kinds'].count(kind)} {kind}"
        ax.text(
            1.0, 1.03 + 0.055 * place, words, transform=ax.transAxes, ha="right",
            color=_KINDS[kind], fontsize=8.5, fontweight="bold",
        )  # fmt: skip


def _course(ax: Axes, points: Sequence[Facts]) -> None:
    """Gradient, both ends of the spectrum and loss by round, on a logarithmic axis."""
    from matplotlib.ticker import MaxNLocator

    at = [p["round"] for p in points]
    known = all(r is not None for r in at)
    rounds = np.array(at if known else range(len(points)), float)
    lines = (
        ("highest eigenvalue", [p["high"]["value"] for p in points], BLUE),
        ("- lowest eigenvalue", [-p["low"]["value"] for p in points], RED),
        ("gradient", [p["gradient_norm"] for p in points], INK),
        ("loss", [p["loss"] for p in points], ORANGE),
    )
    for label, values, color in lines:
        positive = np.where(np.array(values) > 0, values, np.nan)
        if np.isfinite(positive).any():
            ax.plot(rounds, positive, color=color, lw=1.7, marker="o", ms=3.5, label=label)
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    marks = [_KINDS[p["kind"]] for p in points]
    ax.scatter(
        rounds, np.full(len(rounds), low), c=marks, marker="s", s=42, clip_on=False, zorder=6
    )
    ax.set_ylim(low * (low / high) ** 0.06, high)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.set_xlabel(
        "round (squares: what kind of point it was)" if known else "model", color=GREY, fontsize=9
    )
    ax.legend(frameon=False, fontsize=8, labelcolor=GREY)


def _dress(ax: Axes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=10.5, color=INK, pad=8)
    ax.grid(color=GRID, lw=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", colors=GREY, labelsize=8.5, length=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(GRID)
