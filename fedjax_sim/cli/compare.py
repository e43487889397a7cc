"""`fedjax-sim compare`: which run, or which setting over its seeds, converges better."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from fedjax_sim.core.checks import InputError

PICTURE = "compare.png"
_SUFFIXES = (".png", ".pdf", ".svg")

_EPILOG = """\
The first is the baseline. Each DIR is the folder of a run, of several runs (those that differ
in their seed alone count as one setting), or of a sweep (each of its settings is compared).
Seeds that two have in common are compared pair by pair.

examples:
  fedjax-sim compare runs/fedavg runs/scaffold
  fedjax-sim compare runs/fedavg-sweep-1 runs/fedprox-sweep-1 --names fedavg,fedprox
  fedjax-sim compare runs/mu-sweep-1 --target 0.9 --out compare.png
  fedjax-sim compare runs/a runs/b --metric test_loss --json
"""


def add(verbs: Any) -> None:
    """Add the verb to the command line's grammar."""
    words = "which of several runs or sweeps converges faster, better, steadier"
    parser = verbs.add_parser(
        "compare",
        help=words,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="of a run, of runs, or a sweep")
    words = "value to be reached; default: the worst one's end level"
    parser.add_argument("--target", metavar="X", help=words)
    words = "such as test_loss; for others --metric=+NAME (more is better) or =-NAME"
    parser.add_argument("--metric", metavar="NAME", help=words)
    parser.add_argument("--names", metavar="A,B", help="of the contestants, in order")
    words = f"draw the picture there (.png, .pdf, .svg; in a folder: {PICTURE})"
    parser.add_argument("--out", metavar="FILE", help=words)
    parser.add_argument("--json", action="store_true", help="print all figures as JSON instead")


def main(arguments: argparse.Namespace) -> int:
    """Compare, print, and draw where asked."""
    target = _number(arguments.target)
    names = None if arguments.names is None else [n.strip() for n in arguments.names.split(",")]
    if names is not None and not all(names):
        raise InputError("--names", arguments.names, "must be names with commas between them")
    out = None if arguments.out is None else _picture_path(Path(arguments.out))
    from fedjax_sim.experiment.compare import compare

    found = compare(*arguments.folders, target=target, metric=arguments.metric, names=names)
    if out is not None:
        figure = found.plot()
        try:
            figure.savefig(out, dpi=150)
        except OSError as error:
            raise InputError("--out", str(out), f"cannot be written: {error.strerror}") from error
    if arguments.json:
        print(json.dumps(found.as_json(), indent=2, allow_nan=False))
        return 0
    from fedjax_sim.cli import screen
    from fedjax_sim.experiment.compare_table import renderables

    to = screen.console()
    for part in renderables(found):
        to.print(part)
    to.print(f"\n{out}" if out is not None else f"\na picture: add --out {PICTURE}", style="dim")
    return 0


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise InputError("--target", text, "must be a number, such as 0.95") from error


def _picture_path(out: Path) -> Path:
    """Where to draw; refused before anything is read where nothing can be written."""
    path = out / PICTURE if out.is_dir() else out
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError("--out", str(out), f"must end in one of: {', '.join(_SUFFIXES)}")
    if not path.parent.is_dir():
        raise InputError("--out", str(out), f"there is no folder {path.parent}; make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError("--out", str(out), "cannot be written: no right to write there")
    return path
