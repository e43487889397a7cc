"""`fedjax-sim verdict`: why does it not converge, from a run's folder, its records or a CSV."""

from __future__ import annotations

import argparse
import json
from typing import Any

_EPILOG = """\
examples:
  fedjax-sim verdict runs/mine
  fedjax-sim verdict runs/mine/metrics.jsonl --metric test_accuracy
  fedjax-sim verdict history.csv --loss val_loss --floor 0 --json
"""


def add(verbs: Any) -> None:
    """Add the verb to the command line's parser."""
    verb = verbs.add_parser(
        "verdict",
        help="converged, stuck, swinging or diverging, and the likeliest cause",
        description="Judge a run by its curves, show the evidence and say what to try.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("path", metavar="PATH", help="a run's folder, a metrics.jsonl or a CSV")
    verb.add_argument("--loss", metavar="COLUMN", help="what to judge, lower is better")
    verb.add_argument("--metric", metavar="COLUMN", help="what to judge, higher is better")
    verb.add_argument(
        "--floor", metavar="X", type=float, help="the lowest value that the loss can have"
    )
    verb.add_argument("--json", action="store_true", help="print one JSON object")


def main(arguments: argparse.Namespace) -> int:
    """Print the verdict on a file; 0 whatever it is."""
    from fedjax_sim.experiment.verdict_file import verdict_of

    found = verdict_of(
        arguments.path, loss=arguments.loss, metric=arguments.metric, floor=arguments.floor
    )
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=2, allow_nan=False))
        return 0
    from fedjax_sim.cli import screen

    to = screen.console()
    to.print(f"[bold]{found.name}[/]  [dim]confidence {100 * found.confidence:.0f} %[/]")
    to.print(found.sentence)
    to.print(f"likeliest cause: {found.cause}")
    to.print(f"what to try: {found.remedy}")
    to.print(_evidence(found.evidence))
    return 0


def _evidence(numbers: dict[str, float]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("evidence")
    table.add_column("", justify="right")
    for name, value in numbers.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}")
    return table
