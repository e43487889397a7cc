"""The closing table of a run: what it came to, what it cost."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_METRICS = {
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
    "client_accuracy_mean": "clients' accuracy, mean",
    "client_accuracy_worst10": "clients' accuracy, worst 10 %",
    "client_accuracy_jain": "clients' accuracy, Jain's index",
    "client_adapted_accuracy_mean": "clients' accuracy, adapted",
    "unseen_accuracy_mean": "unseen clients' accuracy, mean",
    "unseen_adapted_accuracy_mean": "unseen clients' accuracy, adapted",
    "group_accuracy_min": "worst group's accuracy",
    "client_loss_mean": "clients' loss, mean",
    "train_loss": "train loss",
}
_NOT_METRICS = {"uplink_bytes", "downlink_bytes", "cohort_present", "client_steps"}
_OF_CLIENTS = ("_p10", "_p50", "_p90", "_std", "_worst10", "_cvar", "_jain", "_gini")
_SOURCES = ("test_", "client_", "unseen_")
_WIDTH = 78


def closing_table(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    """Final and best metrics, and what the run cost, as plain text.

    Args:
      records: as in `metrics.jsonl`.
      summary: as in `summary.json`; lines whose figures are missing are left out.

    Returns:
      Lines without a trailing newline.
    """
    from rich.console import Console

    out = io.StringIO()
    console = Console(
        file=out, width=_WIDTH, color_system=None, legacy_windows=False, force_jupyter=False
    )
    for table in tables(records, summary):
        console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def tables(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[Table]:
    """The closing table as rich renderables: metrics, then costs."""
    found = summary.get("verdict")
    shown = [_metrics(records, summary), _costs(records, summary)]
    return [*shown, verdict_lines(found)] if found else shown


COLORS = {
    "converged": "green",
    "converging": "cyan",
    "stagnating": "yellow",
    "oscillating": "yellow",
    "diverging": "red",
}
"""Of the verdicts; `too early to say` has none."""


def verdict_lines(found: Mapping[str, Any]) -> Table:
    """A verdict as it closes a run: its name and sentence, and what to do where all is not well.

    Args:
      found: `summary["verdict"]`.
    """
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    color = COLORS.get(found["name"], "default")
    table.add_row("verdict", f"[bold {color}]{found['name']}[/]: {found['sentence']}")
    for name in ("cause", "remedy"):
        if found.get(name) and found["name"] not in ("converged", "converging"):
            table.add_row(name, found[name])
    return table


def _metrics(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Table:
    from rich import box
    from rich.table import Table

    final, best = summary.get("final", {}), summary.get("best", {})
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("metric")
    for title in ("final", "best", "at round"):
        table.add_column(title, justify="right")
    others = [n for n in final if n.startswith(_SOURCES) and n not in _METRICS]
    others = [n for n in others if n not in _NOT_METRICS and not n.startswith(("client_accuracy",))]
    others = [n for n in others if not n.endswith(_OF_CLIENTS)]
    for name in [*_METRICS, *others]:
        if name not in final:
            continue
        top = best.get(name, {})
        table.add_row(
            _METRICS.get(name, name.replace("_", " ")),
            measure(name, final[name]),
            measure(name, top["value"]) if top else "",
            f"{top['round']:,}" if top else "",
            style="bold" if name == "test_accuracy" else None,
        )
    if not table.row_count:
        table.add_row("nothing was measured", "", "", "")
    del records
    return table


def _costs(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    for name, text in _cost_lines(records, summary):
        table.add_row(name, text)
    return table


def _cost_lines(
    records: Sequence[Mapping[str, Any]], s: Mapping[str, Any]
) -> list[tuple[str, str]]:
    lines = []
    rounds, seconds = s.get("rounds", 0), s.get("seconds")
    if seconds is not None:
        speed = f", {rounds / seconds:.3g} rounds/s" if seconds > 0 else ""
        lines.append(("rounds", f"{rounds:,} in {duration(seconds)}{speed}"))
    if s.get("virtual_seconds"):
        lines.append(("virtual time", duration(s["virtual_seconds"]) + _lost(records)))
    if s.get("compile_seconds"):
        lines.append(("compile", duration(s["compile_seconds"])))
    if "client_steps" in s:
        speed = f", {s['steps_per_second']:,.0f}/s" if "steps_per_second" in s else ""
        lines.append(("client steps", f"{s['client_steps']:,}{speed}"))
    if "lane_efficiency" in s:
        plan, bound = s.get("plan", {}), s.get("lane_efficiency_bound")
        text = f"{100 * s['lane_efficiency']:.0f} %"
        text += f" of at most {100 * bound:.0f} %" if bound else ""
        if plan:
            text += f" ({count(plan['lanes'], 'lane')} x {count(plan['devices'], 'device')})"
        lines.append(("lane efficiency", text))
    up, down = s.get("total_uplink_bytes"), s.get("total_downlink_bytes")
    if up is not None and down is not None:
        lines.append(("traffic", f"{size(up)} up, {size(down)} down"))
    if "peak_memory_bytes" in s:
        lines.append(("peak memory", size(s["peak_memory_bytes"])))
    return lines


def _lost(records: Sequence[Mapping[str, Any]]) -> str:
    """Shares of the chosen whose reports did not count."""

    def total(name: str) -> float:
        return sum(r.get(name) or 0 for r in records)

    chosen = total("clients_chosen")
    shares = [(w, total(f"clients_{w}")) for w in ("late", "dropped")]
    said = [f"{100 * n / chosen:.2g} % {w}" for w, n in shares if chosen and n]
    return f"; reports: {', '.join(said)}" if said else ""


def measure(name: str, value: float | None) -> str:
    """A metric's value in its usual form: accuracies in percent."""
    if value is None:
        return "not finite"
    if name.endswith(("_jain", "_gini")):
        return f"{value:.4f}"
    return f"{100 * value:.2f} %" if "accuracy" in name else f"{value:.4g}"


def duration(seconds: float) -> str:
    """`0.42 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(n_bytes: float) -> str:
    """Bytes in decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(n_bytes) < 1000 or unit == "TB":
            break
        n_bytes /= 1000
    return f"{n_bytes:.3g} {unit}"


def count(number: int, noun: str) -> str:
    """`1 lane`, `2 lanes`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
