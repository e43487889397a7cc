"""What a sweep hands back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.report import measure
from fedjax_sim.experiment.sweep_records import Curves, best_row, metrics_of, summary_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_WIDTH = 100


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
      records: one dict a run: `run`, `seed`, the varied values, `setting`, `status`,
        `rounds`, `final_NAME`, `best_NAME`, `best_NAME_round` of every metric.
      curves: `{name: [runs, R]}`, NaN where nothing was measured.
      varied: the names that were varied.
      summary: as in `summary.json`.
      out: the sweep's folder, or None.
      finished_before: whether all runs had been done before.
      resumed_from: runs that were done when this process took over.
    """

    records: list[dict[str, Any]] = dataclasses.field(repr=False)
    curves: Curves = dataclasses.field(repr=False)
    varied: tuple[str, ...]
    summary: dict[str, Any] = dataclasses.field(repr=False)
    out: Path | None
    finished_before: bool = False
    resumed_from: int = 0

    @property
    def metrics(self) -> list[str]:
        """What was measured, the most telling first."""
        return metrics_of(self.records)

    def rows(self) -> list[dict[str, Any]]:
        """One dict a setting: its values, `n`, `diverged`, `NAME_mean` and `NAME_std`."""
        return summary_rows(self.records, self.varied)

    def best(self, metric: str | None = None) -> dict[str, Any] | None:
        """The row of the best setting of which no run diverged."""
        rows = self.rows()
        at = best_row(rows, self.metric(metric))
        return None if at is None else rows[at]

    def table(self, metric: str | None = None) -> str:
        """The settings with mean +- standard deviation over seeds; the best is marked.

        Args:
          metric: such as `test_accuracy`; the most telling one by default.
        """
        import io

        from rich.console import Console

        out = io.StringIO()
        console = Console(
            file=out, width=_WIDTH, color_system=None, legacy_windows=False, force_jupyter=False
        )
        console.print(self.rich_table(metric))
        return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())

    def rich_table(self, metric: str | None = None) -> Table:
        """`table` as a rich renderable."""
        name, rows = self.metric(metric), self.rows()
        return _table(rows, self.varied, name, best_row(rows, name))

    def plot(self, metric: str | None = None) -> Figure:
        """The metric by round and by varied value as a matplotlib figure; opens no window.

        Args:
          metric: such as `test_accuracy`; the most telling one by default.
        """
        from fedjax_sim.experiment.sweep_plots import picture

        return picture(self, self.metric(metric))

    def metric(self, name: str | None) -> str:
        """The metric of that name, or the most telling one.

        Raises:
          InputError: it was not measured.
        """
        known = self.metrics
        if name is None and known:
            return known[0]
        if name not in known:
            remedy = f"must be one of: {', '.join(known)}" if known else "nothing was measured"
            raise InputError("metric", name, remedy)
        return name


def _table(
    rows: Sequence[Mapping[str, Any]], varied: Sequence[str], metric: str, best: int | None
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in varied:
        table.add_column(Text(name), justify="right")
    words = metric.replace("_", " ")
    table.add_column(f"{words}, final", justify="right")
    has_best = any(f"best_{metric}_mean" in row for row in rows)
    if has_best:
        table.add_column("best", justify="right")
    diverged = any(row["diverged"] for row in rows)
    for title in ("seeds", *(["diverged"] if diverged else [])):
        table.add_column(title, justify="right")
    table.add_column("")
    for i, row in enumerate(rows):
        cells = [Text(_shown(row[name])) for name in varied]
        cells.append(Text(_spread(row, f"final_{metric}", metric)))
        if has_best:
            cells.append(Text(_spread(row, f"best_{metric}", metric)))
        cells.append(Text(str(row["n"])))
        if diverged:
            cells.append(Text(str(row["diverged"]) if row["diverged"] else ""))
        table.add_row(*cells, "< best" if i == best else "", style="bold" if i == best else None)
    return table


def _spread(row: Mapping[str, Any], name: str, metric: str) -> str:
    mean, std = row.get(f"{name}_mean"), row.get(f"{name}_std")
    if mean is None:
        return "-"
    if std is None:
        return measure(metric, mean)
    if "accuracy" in metric:
        return f"{100 * mean:.2f} +- {100 * std:.2f} %"
    return f"{mean:.4g} +- {std:.2g}"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
