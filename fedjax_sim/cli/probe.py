"""`fedjax-sim probe`: what kind of point has a run come to."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Generator
from typing import Any

from fedjax_sim.core.checks import InputError

_EPILOG = """\
A vanishing gradient may mean a minimum, a saddle or a plateau. The gradient and the Hessian of
all clients' loss are measured at the run's final model (or a checkpoint), and the answer is one
of: not stationary, local minimum, saddle (with the way out, tried), flat. The same is asked of
some clients on their own. Leaves probe.json and probe.png in the folder.

examples:
  fedjax-sim probe runs/mine
  fedjax-sim probe runs/mine --all --clients 0
  fedjax-sim probe runs/mine --round 40 --steps 80 --clients all
"""


def add(verbs: Any) -> None:
    """Add the verb to the command line's parser."""
    verb = verbs.add_parser(
        "probe",
        help="minimum, saddle or plateau: slope and curvature at a run's models",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb.add_argument("folder", metavar="DIR", help="a run's folder")
    which = verb.add_mutually_exclusive_group()
    which.add_argument("--round", metavar="N", help="the checkpoint of this round")
    which.add_argument("--all", action="store_true", help="all checkpoints and the final model")
    words = "whose examples: train (default), the objective that is trained, or test"
    verb.add_argument("--split", metavar="NAME", default="train", help=words)
    words = "clients count by examples (default) or uniform, all alike"
    verb.add_argument("--weighting", metavar="HOW", default="examples", help=words)
    verb.add_argument("--steps", metavar="M", default="40", help="blocks of Lanczos at most; 40")
    verb.add_argument("--block", metavar="B", default="8", help="vectors a block; 8")
    words = "clients probed on their own: a number, all, or 0 for none; default 10"
    verb.add_argument("--clients", metavar="N", default="10", help=words)
    words = "stationary when a gradient step gains less than this share of the loss's scale; 1e-6"
    verb.add_argument("--tolerance", metavar="X", default="1e-6", help=words)
    words = "compute in float32: faster; small decreases of the loss drown in rounding"
    verb.add_argument("--float32", action="store_true", help=words)
    verb.add_argument("--seed", metavar="N", default="0", help="of all random directions; 0")
    verb.add_argument("--json", action="store_true", help="print probe.json instead of tables")


def main(arguments: argparse.Namespace) -> int:
    """Probe, print, leave the two files."""
    from fedjax_sim.cli import backend

    backend.prepare()
    from fedjax_sim.cli import screen
    from fedjax_sim.diagnostics.critical_answer import Tolerances
    from fedjax_sim.experiment.critical import Probe, probe_run

    how = Probe(
        split=arguments.split,
        weighting=arguments.weighting,
        steps=_whole("steps", arguments.steps),
        block=_whole("block", arguments.block),
        clients=None if arguments.clients == "all" else _whole("clients", arguments.clients),
        float64=not arguments.float32,
        seed=_whole("seed", arguments.seed),
        tolerances=Tolerances(stationary=_real("tolerance", arguments.tolerance)),
    )
    round_ = None if arguments.round is None else _whole("round", arguments.round)
    to = screen.console()
    with _progress(to, quiet=arguments.json) as tell:
        points = probe_run(
            arguments.folder, round=round_, all_rounds=arguments.all, how=how, on_probe=tell
        )
    facts = [point.facts() for point in points]
    if arguments.json:
        print(json.dumps({"points": facts}, indent=1, allow_nan=False))
    else:
        _tell(to, arguments.folder, facts)
    return 0


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--{name}", text, "must be a whole number") from None


def _real(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--{name}", text, "must be a number") from None


def _tell(to: Any, folder: str, facts: list[dict[str, Any]]) -> None:
    """The answer in words, the numbers behind it, the clients, and where the files lie."""
    from fedjax_sim.experiment import critical_table as tables
    from fedjax_sim.experiment.critical import PICTURE, RESULT

    if len(facts) > 1:
        to.print(tables.course_table(facts))
    last = facts[-1]
    style = tables.STYLES[last["kind"]]
    to.print(f"[bold {style}]{tables.kind_of(last)}[/] [dim]at {last['name']}[/]")
    to.print(last["sentence"], markup=False)
    to.print()
    to.print(tables.point_table(last))
    if last.get("clients"):
        to.print(tables.client_table(last))
    to.print(f"{folder}/{PICTURE}  [dim]the spectrum, the way down, the clients[/]")
    to.print(f"{folder}/{RESULT}  [dim]all numbers[/]")


@contextlib.contextmanager
def _progress(to: Any, *, quiet: bool) -> Generator[Any]:
    """A bar on a terminal, a line a model elsewhere, nothing when only JSON is wanted."""
    if quiet:
        yield lambda name, what, done, most: None
        return
    if not to.is_terminal:
        seen: set[str] = set()

        def line(name: str, what: str, done: int, most: int) -> None:
            del what, done, most
            if name not in seen:
                to.print(f"probing {name}", style="dim")
                seen.add(name)

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    words, count = TextColumn("{task.description}"), MofNCompleteColumn()
    spin, bar = SpinnerColumn(style="cyan"), BarColumn(complete_style="cyan")
    with Progress(spin, words, bar, count, console=to, transient=True) as shown:
        task = shown.add_task("reading the run", total=None)

        def tell(name: str, what: str, done: int, most: int) -> None:
            shown.update(task, description=f"{name}: {what}", completed=done, total=most or None)

        yield tell
