"""A comparison as text: the effects, the other figures, the notes."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedjax_sim.diagnostics.compare import RATIO
from fedjax_sim.diagnostics.paired import BETTER, UNKNOWN, WORSE
from fedjax_sim.experiment.compare_source import VIRTUAL
from fedjax_sim.experiment.report import duration, measure, size

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from fedjax_sim.experiment.compare import Comparison

_STYLES = {BETTER: "green", WORSE: "red"}
_LONGEST_NAME, _SHORT_NAME = 34, 14
_LEGEND = (
    "ratios (x) of geometric means and differences of means, t intervals over seeds; end level: "
    "mean of the last tenth; drop (largest, below the best so far), spread (about a straight "
    "line) and variance: of the last third"
)
Row = Mapping[str, Any]


def text(comparison: Comparison, width: int) -> str:
    """All of it as plain lines without a trailing newline.

    Args:
      comparison: what was found.
      width: in characters.
    """
    from rich.console import Console

    out = io.StringIO()
    console = Console(
        file=out, width=width, color_system=None, legacy_windows=False, force_jupyter=False
    )
    for part in renderables(comparison):
        console.print(part, highlight=False)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def renderables(comparison: Comparison) -> list[RenderableType]:
    """Head line, effects, other figures, notes and legend for rich."""
    from rich.text import Text

    parts: list[RenderableType] = [Text(head(comparison), style="bold")]
    parts += [effects_table(comparison), figures_table(comparison)]
    parts += [Text(f"note: {note}", style="yellow") for note in comparison.notes]
    return [*parts, Text(_LEGEND, style="dim")]


def head(c: Comparison) -> str:
    """What is compared, in one line."""
    sign = "" if c.sign == 0 else ("more" if c.sign > 0 else "less")
    value = measure(c.metric, c.target.value)
    return f"{shown_metric(c.metric)} ({sign} is better), target {value} ({c.target.origin})"


def shown_metric(name: str) -> str:
    """`test accuracy`."""
    return name.replace("_", " ")


def effects_table(c: Comparison) -> Table:
    """Every measure of every contestant: value, set against the baseline, in a word."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # One blank between columns: it fits a terminal of 80 as long as names are short.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    base_name = c.names[0] if len(c.names[0]) <= _SHORT_NAME else "baseline"
    table.add_column(Text(f"against {base_name}, {100 * c.level:g} %"), min_width=23)
    table.add_column("in a word")
    short = shorter(c.names)
    titles = dict.fromkeys((e["effect"], e["measure"]) for e in c.effects)
    for i, (effect, name) in enumerate(titles):
        if i:
            table.add_row("", "", "", "")
        title = _titles(c)[name]
        table.add_row(Text.assemble((f"{effect}: ", "bold"), title), "", "", "")
        block = [e for e in c.effects if e["measure"] == name]
        for e in block:
            base = e is block[0]
            word = "baseline" if base else e["word"]
            told = f"{word} ({e['why']})" if not base and e["why"] else word
            table.add_row(
                Text(f"  {short[e['contestant']]}"),
                Text(own(c, e)),
                Text("" if base else against(c, e, block[0])),
                Text(told, style="dim" if base else _STYLES.get(word, "")),
            )
    return table


def _titles(c: Comparison) -> dict[str, str]:
    clock = "virtual seconds" if c.clock == VIRTUAL else "seconds"
    return {
        "rounds": "rounds",
        "bytes": "bytes",
        "seconds": clock,
        "end": "end level",
        "largest_drop": "drop",
        "spread": "spread",
        "share": "share",
    }


def shorter(names: Sequence[str]) -> dict[str, str]:
    """Each name, cut in its middle where it is long and stays distinct."""
    half = (_LONGEST_NAME - 2) // 2
    cut = [n if len(n) <= _LONGEST_NAME else f"{n[:half]}..{n[-half:]}" for n in names]
    return dict(zip(names, cut if len(set(cut)) == len(cut) else names, strict=True))


def own(c: Comparison, e: Row) -> str:
    """A contestant's own value."""
    value = e["value"]
    if e["measure"] == "share":
        return f"{round((value or 0.0) * e['n'])} of {e['n']}" if e["n"] else "not known"
    if value is None:
        return "not known"
    return ("> " if e["bound"] else "") + amount(c, e["measure"], value)


def amount(c: Comparison, name: str, value: float) -> str:
    """A measure's value in its usual form."""
    if name == "rounds":
        return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"
    if name == "bytes":
        return size(value)
    if name == "seconds":
        return duration(value)
    return measure(c.metric, value)


def against(c: Comparison, e: Row, base: Row) -> str:
    """A ratio `x 0.86 [0.71, 1.04]`, or a difference, with its interval where there is one."""
    value, low, high = e["against"], e["against_low"], e["against_high"]
    if value is None or (e["word"] == UNKNOWN and e["why"].startswith("neither")):
        return ""
    if e["kind"] == RATIO:
        mark = {(True, False): "> ", (False, True): "< "}.get((e["bound"], base["bound"]), "")
        limits = "" if low is None else f" [{_factor(low)}, {_factor(high)}]"
        return f"{mark}x {_factor(value)}{limits}"
    if e["measure"] == "share" or "accuracy" in c.metric:
        digits = 0 if e["measure"] == "share" else 2
        limits = "" if low is None else f" [{100 * low:+.{digits}f}, {100 * high:+.{digits}f}]"
        return f"{100 * value:+.{digits}f} %{limits}"
    return f"{value:+.2g}" + ("" if low is None else f" [{low:+.2g}, {high:+.2g}]")


def _factor(value: float) -> str:
    if not math.isfinite(value) or value >= 1000 or value < 0.01:
        return f"{value:.2g}"
    return f"{value:.2f}" if value < 10 else f"{value:.3g}"


def figures_table(c: Comparison) -> Table:
    """What the effects leave out: runs, best values, variance, sign changes, verdicts."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("")
    broken = [n for n in ("diverged", "unknown") if any(row[n] for row in c.rows)]
    verdicts = any("verdict" in row for row in c.rows)
    titles = ["runs", *broken, "best", "variance", "sign changes"]
    for title in titles:
        table.add_column(title.replace("unknown", "end not known"), justify="right")
    if verdicts:
        table.add_column("verdict")
    short = shorter(c.names)
    for row in c.rows:
        cells = [str(row["runs"]), *(str(row[n] or "") for n in broken)]
        cells.append("" if row["best"] is None else measure(c.metric, row["best"]))
        cells.append("" if row["variance"] is None else f"{row['variance']:.2g}")
        turns = row["sign_changes"]
        cells.append("" if turns is None else f"{100 * turns:.0f} %")
        cells += [_verdict(row.get("verdict", {}), row["runs"])] if verdicts else []
        table.add_row(Text(short[row["name"]]), *map(Text, cells))
    return table


def _verdict(found: Mapping[str, int], runs: int) -> str:
    if len(found) == 1 and next(iter(found.values())) == runs:
        return next(iter(found))
    return ", ".join(f"{number} {name}" for name, number in found.items())
