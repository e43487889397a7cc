"""Rows of `compare.json` as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HEAD = (
    "workload", "rounds a dispatch", "rival", "ours", "rival's", "ratio (least to most)",
    "ours steps/s", "rival's steps/s", "ours of peak", "rival's of peak",
    "ours memory", "rival's memory",
)  # fmt: skip


def seconds(value: float) -> str:
    """Three significant digits in ms or s."""
    if value < 1:
        return f"{significant(1e3 * value)} ms"
    return f"{significant(value)} s"


def significant(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    spread = f"{significant(row['ratio_min'])} to {significant(row['ratio_max'])}"
    return (
        row["workload"],
        str(row["rounds_a_dispatch"]),
        row["label"],
        seconds(row["ours_seconds"]),
        seconds(row["rival_seconds"]),
        f"{significant(row['ratio'])} ({spread})",
        f"{row['ours_steps_per_second']:,.0f}",
        f"{row['rival_steps_per_second']:,.0f}",
        f"{row['ours_of_peak']:.1%}",
        f"{row['rival_of_peak']:.1%}",
        f"{row['ours_peak_bytes'] / 1e9:.2f} GB",
        f"{row['rival_peak_bytes'] / 1e9:.2f} GB",
    )


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table, columns aligned."""
    lines = [HEAD, *(cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    padded = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def losses(row: dict[str, Any]) -> str:
    """What the row's loss check found."""
    verdict = "the same" if row["same_loss"] else "NOT THE SAME: not recorded"
    return (
        f"{row['rounds_a_dispatch']} a dispatch, loss after {row['compared_at_round']} rounds: "
        f"{row['ours_loss']:.4f} and {row['rival_loss']:.4f} ({row['label']}), from "
        f"{row['ours_initial_loss']:.4f}: {verdict}"
    )
