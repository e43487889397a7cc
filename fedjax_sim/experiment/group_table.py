"""What `group` found, as rich tables, text and JSON."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjax_sim.experiment.group_features import FEATURES, LABELS, UPDATES

if TYPE_CHECKING:
    from rich.table import Table

    from fedjax_sim.experiment.group import Grouping

_BARS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_AS_BARS = 32  # classes up to which labels are drawn as bars
_SHOWN = 20
_WORDS = {
    LABELS: "shares of their labels",
    FEATURES: "mean and mean square of their inputs",
    UPDATES: "updates of the first round",
}


def facts(g: Grouping) -> dict[str, Any]:
    """All but the features, JSON-ready."""
    cosines = g.cosines
    made: dict[str, Any] = {
        "federation": g.federation.name,
        "by": g.by,
        "kernel": g.kernel,
        "groups": g.k,
        "cosine_within": _number(cosines["within"]),
        "cosine_across": _number(cosines["across"]),
        "scores": g.scores,
        "rows": list(_rows(g)),
        "ids": g.ids.tolist(),
    }
    if g.count is not None:
        c = g.count
        made["choice"] = {
            "split": [f"{k} -> {k + 1}" for k in c.tried],
            "gain": list(c.gains),
            "chance": list(c.chance),
            "needed": list(c.bars),
            "limited": c.limited,
        }
    if g.planted is not None:
        made["planted"] = g.planted.tolist()
    return made


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _rows(g: Grouping) -> Iterator[dict[str, Any]]:
    """One dict a group."""
    sizes = g.federation.train.sizes
    for i in range(g.k):
        members = g.ids == i
        row: dict[str, Any] = {
            "group": i,
            "clients": int(members.sum()),
            "examples": int(sizes[members].sum()),
            "cosine": _number(g.cosines["per_group"][i]),
        }
        if g.labels is not None:
            row["labels"] = g.labels[i].tolist()
        if g.planted is not None:
            counts = np.bincount(g.planted[members])
            row["planted"] = {str(t): int(counts[t]) for t in np.flatnonzero(counts)}
        yield row


def groups_table(g: Grouping) -> Table:
    """One line a group, the largest first."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title in ("group", "clients", "examples"):
        table.add_column(title, justify="right", no_wrap=True)
    n_classes = 0 if g.labels is None else g.labels.shape[1]
    if n_classes:
        bars = n_classes <= _AS_BARS
        title = f"labels 0..{n_classes - 1}" if bars else "most frequent labels"
        table.add_column(title, no_wrap=bars, min_width=n_classes if bars else None)
    table.add_column("cosine", justify="right", no_wrap=True)
    if g.planted is not None:
        table.add_column("planted groups inside")
    for row in list(_rows(g))[:_SHOWN]:
        cells = [str(row["group"]), f"{row['clients']:,}", f"{row['examples']:,}"]
        if n_classes:
            cells.append(_labels(np.array(row["labels"])))
        cells.append("" if row["cosine"] is None else f"{row['cosine']:.2f}")
        if g.planted is not None:
            cells.append(_mixture(row["planted"]))
        table.add_row(*cells)
    left = g.k - _SHOWN
    table.caption = f"and {left:,} smaller groups" if left > 0 else None
    return table


def _labels(counts: np.ndarray) -> str:
    """A bar a class, or the most frequent classes."""
    total = max(int(counts.sum()), 1)
    if len(counts) <= _AS_BARS:
        level = np.ceil(8 * counts / max(int(counts.max()), 1)).astype(int)
        return f"[cyan]{''.join(_BARS[i] for i in level)}[/]"
    top = np.argsort(-counts, kind="stable")[:4]
    return ", ".join(f"{c} ({counts[c] / total:.0%})" for c in top if counts[c])


def _mixture(inside: dict[str, int]) -> str:
    """`2 (25)`, or `0 (11), 2 (14)`, the largest first."""
    order = sorted(inside, key=lambda t: -inside[t])
    shown = ", ".join(f"{t} ({inside[t]:,})" for t in order[:4])
    return shown + (", ..." if len(order) > 4 else "")


def sentences(g: Grouping) -> list[str]:
    """What there is to say beside the table, a line each."""
    lines = [f"{_groups(g.k)} by the clients' {_WORDS[g.by]} ({g.kernel})"]
    outside = int((g.ids < 0).sum())
    if outside:
        lines[0] += f"; {outside:,} of {len(g.ids):,} clients are in none"
    if g.count is not None:
        lines += _why(g)
    within, across = g.cosines["within"], g.cosines["across"]
    if g.k > 1 and math.isfinite(within) and math.isfinite(across):
        lines.append(f"cosine of two clients: {within:.2f} within a group, {across:.2f} across")
    if g.planted is not None:
        s = g.scores
        truth = len(np.unique(g.planted))
        lines.append(
            f"against the {_groups(truth)} planted: ARI {s['ari']:.3f}, NMI {s['nmi']:.3f}, "
            f"purity {s['purity']:.3f}"
        )
    return lines


def _groups(k: int) -> str:
    return f"{k} group" + ("" if k == 1 else "s")


def _why(g: Grouping) -> Iterator[str]:
    c = g.count
    assert c is not None
    if not c.tried:
        return
    last = c.tried[-1]
    split = f"{_groups(last)} into {last + 1}"
    gain, chance = 1 - math.exp(-c.gains[-1]), 1 - math.exp(-c.chance[-1])
    bar = 1 - math.exp(-c.bars[-1])
    words = f"splitting {split} lowers the inertia by {gain:.0%}"
    if c.limited:
        yield f"at least {c.k}: {words}, by chance {chance:.0%}; more were not tried (--most)"
    else:
        yield f"no more: {words}, by chance {chance:.0%} (more than {bar:.0%} would count)"


def text(g: Grouping, width: int) -> str:
    """Table and sentences as plain text."""
    from rich.console import Console

    out = io.StringIO()
    to = Console(file=out, width=width, color_system=None, highlight=False, force_jupyter=False)
    to.print(groups_table(g))
    for line in sentences(g):
        to.print(line, markup=False, soft_wrap=True)
    return out.getvalue().rstrip("\n")
