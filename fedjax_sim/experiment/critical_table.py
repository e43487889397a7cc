"""What a probe found, as rich tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

Facts = Mapping[str, Any]
STYLES = {
    "not stationary": "blue",
    "local minimum": "green",
    "saddle": "red",
    "flat": "yellow",
}
_MOST_CLIENTS = 20


def point_table(point: Facts) -> Table:
    """The numbers behind one answer.

    Args:
      point: as in `probe.json`.
    """
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    for row in _rows(point):
        table.add_row(*row)
    return table


def _rows(p: Facts) -> list[tuple[str, str, str]]:
    way, scales, given = p["walk"], p["scales"], p["tolerances"]
    share, limit = p["promised"] / scales["loss"], given["stationary"]
    exact = p["spectrum"]["exact"]
    flat = "flat" if exact else "flat or too close to zero to tell"
    rows = [
        ("loss", f"{p['loss']:.6g}", f"{p['measured']}, clients weighed by {_by(p)}"),
        ("gradient", f"{p['gradient_norm']:.3g}", "length, over all clients"),
        (
            "a gradient step gains",
            f"{p['promised']:.2g}",
            f"{share:.1g} of the loss's scale {scales['loss']:.3g}; stationary below {limit:.0e}",
        ),
        ("lowest eigenvalue", *_eigenvalue(p, "low")),
        ("highest eigenvalue", *_eigenvalue(p, "high")),
        (
            "negative / flat / positive",
            f"{p['negative']:,} / {p['flat']:,} / "
            f"{max(p['parameters'] - p['negative'] - p['flat'], 0):,}",
            f"{'all' if exact else 'estimates of all'} {p['parameters']:,}; {flat}: within "
            f"{scales['zero']:.1g}",
        ),
    ]
    if p["kind"] in ("saddle", "not stationary"):
        where = "out of the saddle" if p["kind"] == "saddle" else "down the gradient"
        predicted = f"predicted {way['predicted']:.2g}"
        if p["degenerate"]:
            predicted = "no quadratic model predicts it"
        words = f"by a step of {way['step']:.2g} {where}; {predicted}"
        rows.append(("loss falls", f"{way['verified']:.3g}", words))
    rows.append(("products", f"{p['products']:,}", f"rounding unit {p['epsilon']:.1e}"))
    return rows


def _by(p: Facts) -> str:
    return "examples" if p["weighting"] == "examples" else "nothing (uniform)"


def _eigenvalue(p: Facts, end: str) -> tuple[str, str]:
    return f"{p[end]['value']:.6g}", f"+- {p[end]['error']:.1g}"


def course_table(points: Sequence[Facts]) -> Table:
    """One line a model."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("model")
    titles = ("loss", "gradient", "step gains", "lowest", "highest", "negative")
    for title in titles:
        table.add_column(title, justify="right")
    table.add_column("kind")
    for p in points:
        table.add_row(
            p["name"],
            f"{p['loss']:.4g}",
            f"{p['gradient_norm']:.2g}",
            f"{p['promised']:.2g}",
            f"{p['low']['value']:.3g}",
            f"{p['high']['value']:.4g}",
            f"{p['negative']:,}",
            f"[{STYLES[p['kind']]}]{kind_of(p)}[/]",
        )
    return table


def kind_of(p: Facts) -> str:
    """The kind, with `degenerate` where a saddle is."""
    return f"degenerate {p['kind']}" if p["degenerate"] and p["kind"] == "saddle" else p["kind"]


def client_table(point: Facts) -> Table:
    """The clients' own numbers, at most twenty lines, the steepest first."""
    from rich import box
    from rich.table import Table

    rows = point["clients"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    columns = ("client", "examples", "loss", "gradient", "cosine", "along", "lowest", "highest")
    for title in columns:
        table.add_column(title, justify="right")
    table.add_column("on its own")
    order = sorted(range(len(rows["ids"])), key=lambda i: -(rows["gradient_norm"][i] or 0.0))
    for i in order[:_MOST_CLIENTS]:
        kind = rows["kinds"][i]
        table.add_row(
            str(rows["ids"][i]),
            f"{rows['examples'][i]:,}",
            *(_short(rows[n][i]) for n in ("loss", "gradient_norm", "cosine", "along")),
            *(_short(rows[n][i]) for n in ("low", "high")),
            f"[{STYLES[kind]}]{kind}[/]",
        )
    left = len(order) - _MOST_CLIENTS
    table.caption = f"and {left:,} more clients" if left > 0 else None
    return table


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
