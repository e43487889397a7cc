"""`fedjax-sim sweep`: an experiment with several seeds and values."""

from __future__ import annotations

import argparse
import contextlib
import re
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import files


def main(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Run a sweep, or go on with the one in `--out`; see `fedjax-sim sweep --help`."""
    from fedjax_sim.experiment import config

    out = None if arguments.out is None else Path(arguments.out)
    asks = (arguments.experiment, arguments.seeds, *arguments.vary, *overrides)
    if out is not None and (out / files.SWEEP).is_file() and not any(asks):
        return go_on(out)
    if out is not None and not (out / files.SWEEP).is_file():
        files.check_free(out)
    path = None if arguments.experiment is None else Path(arguments.experiment)
    values = {key: config.parse_value(key, text) for key, text in overrides.items()}
    varied = _varied(arguments.vary)
    seeds = None
    if arguments.seeds is not None:
        seeds = config.parse_value("seeds", arguments.seeds)
    from fedjax_sim.experiment.sweep_config import request
    from fedjax_sim.experiment.sweep_plan import check_inner

    check_inner(arguments.inner)
    asked = request(config.read(path), values, varied, seeds, arguments.inner)
    return _sweep(asked, out or _out(path, asked.first))


def go_on(out: Path) -> int:
    """Go on with the sweep that a folder holds."""
    from fedjax_sim.experiment.sweep_config import from_sweep
    from fedjax_sim.experiment.sweep_folder import read_sweep

    found = read_sweep(out)
    if "seeds" not in found["sweep"] or "experiment" not in (found.get("group") or [{}])[0]:
        remedy = "was made in Python; call fedjax_sim.sweep() again from the script that made it"
        raise InputError("out", str(out), remedy)
    return _sweep(from_sweep(found), out)


def _varied(pairs: list[list[str]]) -> dict[str, list[Any]]:
    from fedjax_sim.experiment import config

    varied: dict[str, list[Any]] = {}
    for key, text in pairs:
        name = key.removeprefix("--")
        if name in varied:
            raise InputError(f"--vary {name}", text, f"is given twice, first as {varied[name]}")
        values = config.parse_value(name, text)
        if not isinstance(values, list):
            remedy = 'must be a list of values in TOML, such as "[0.03, 0.1, 0.3]"'
            raise InputError(f"--vary {name}", text, remedy)
        varied[name] = values
    return varied


def _sweep(asked: Any, out: Path) -> int:
    """Read the data, run, and tell; the exit code."""
    from fedjax_sim.cli import backend, screen
    from fedjax_sim.cli.main import DIVERGED, DONE
    from fedjax_sim.cli.run import named_fields

    backend.prepare(asked.first.plan.devices)
    from fedjax_sim.experiment.sweep_config import SweepText, lanes_of, make_design
    from fedjax_sim.experiment.sweep_folder import SweepFolder
    from fedjax_sim.experiment.sweep_session import SweepSession

    folder = SweepFolder(out)
    with named_fields():
        design = make_design(asked, lanes_of(folder.found))
        session = SweepSession(
            design,
            text=SweepText(asked, design),
            folder=folder,
            inner=asked.inner,
            devices=asked.devices,
        )
    console = screen.console()
    _banner(console, asked, design, session, out)
    with progress(console) as tell:
        result = session.run(tell)
    _closing(console, result)
    return DIVERGED if result.summary["diverged"] == result.summary["runs"] else DONE


def _banner(to: Any, asked: Any, design: Any, session: Any, out: Path) -> None:
    """Tell what is about to run."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from fedjax_sim.experiment.report import count

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for key, values in asked.varied.items():
        grid.add_row(key, Text(", ".join(_word(v) for v in values)))
    grid.add_row(
        "seeds",
        ", ".join(map(str, asked.seeds))
        if len(asked.seeds) < 13
        else f"{len(asked.seeds)}: {asked.seeds[0]} .. {asked.seeds[-1]}",
    )
    what = f"{count(design.n_runs, 'run')}: {count(len(design.settings), 'setting')} with "
    grid.add_row("runs", what + f"{count(len(asked.seeds), 'seed')} each")
    prepared = design.groups[0].prepared
    grid.add_row(
        "rounds",
        f"{prepared.settings.rounds:,} with {count(prepared.settings.cohort, 'client')} each",
    )
    grid.add_row("plan", _plan(session, prepared))
    grid.add_row("out", str(out))
    first = prepared.name if "algorithm.name" not in asked.varied else "sweep"
    name = f"{first} on {prepared.federation.name}"
    if to.is_terminal:
        title = f"[bold]{name}[/]"
        to.print(Panel(grid, title=title, title_align="left", border_style="cyan", expand=False))
    else:
        to.print(name)
        to.print(grid)
    for note in dict.fromkeys(n for p in asked.points for n in p.experiment.notes):
        to.print(f"note: {note}", style="yellow")


def _plan(session: Any, prepared: Any) -> str:
    from fedjax_sim.experiment.report import count

    plans = [p for p in session.plans if p is not None]
    if not plans:
        return "all runs are done"
    how = {
        "map": "one run after another",
        "hyper": f"{count(plans[0].width, 'setting')} of a seed at once",
        "vmap": f"{count(plans[0].held * plans[0].width, 'run')} at once",
    }
    text = f"{count(len(session.plans), 'program')}, {count(plans[0].devices, 'device')}, "
    return text + f"{count(prepared.plan.lanes, 'lane')} a run, {how[plans[0].inner]}"


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def progress(to: Any) -> Generator[Callable[[Any], None]]:
    """A listener for `SweepSession.run`: a bar on a terminal, lines elsewhere."""
    if not to.is_terminal:
        yield _Lines(to)
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn(style="cyan"),
        TextColumn("{task.fields[phase]:<9}"),
        BarColumn(bar_width=40, complete_style="cyan", finished_style="green"),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=to) as bar:
        task = bar.add_task("", total=1.0, phase="loading", figures="")

        def tell(now: Any) -> None:
            bar.update(task, completed=now.share, phase=now.phase, figures=_figures(now))

        yield tell


def _figures(now: Any) -> str:
    from fedjax_sim.experiment.report import duration

    shown = [f"{now.done}/{now.runs} runs"]
    if now.groups > 1 and now.phase != "done":
        shown.append(f"program {now.group}/{now.groups}")
    if now.runs_per_second:
        shown.append(f"{now.runs_per_second:.3g} runs/s")
    if now.seconds_left and now.phase == "running":
        shown.append(f"{duration(now.seconds_left)} left")
    return "  ".join(shown)


class _Lines:
    """A plain line for each compile, every 5 seconds or tenth of the work, and at the end."""

    def __init__(self, to: Any) -> None:
        self._to, self._share, self._time, self._last = to, 0.0, time.monotonic(), ""

    def __call__(self, now: Any) -> None:
        late = time.monotonic() - self._time >= 5.0
        far = now.share - self._share >= 0.1
        if now.phase == "running" and not (late or far):
            return
        self._share, self._time = now.share, time.monotonic()
        line = _figures(now)
        if now.phase == "compiling":
            line = f"compiling program {now.group}/{now.groups}"
        if line != self._last:
            self._to.print(line)
        self._last = line


def _closing(to: Any, sweep: Any) -> None:
    """Tell what the settings came to, and where everything lies."""
    from rich.table import Table

    from fedjax_sim.experiment import sweep_folder as folder
    from fedjax_sim.experiment.report import duration

    s = sweep.summary
    if sweep.finished_before:
        to.print(f"nothing left to do: all {s['runs']:,} runs were done before")
    elif sweep.resumed_from:
        to.print(f"went on after {sweep.resumed_from:,} runs", style="dim")
    if sweep.metrics:
        to.print(sweep.rich_table())
    if not sweep.finished_before:
        ran = s["runs"] - sweep.resumed_from
        to.print(
            f"{ran:,} runs in {duration(s['seconds'])}, "
            f"and {duration(s['compile_seconds'])} to compile",
            style="dim",
        )
    if s["diverged"]:
        words = f"{s['diverged']:,} of {s['runs']:,} runs diverged: a number was no longer finite"
        to.print(words, style="bold red" if s["diverged"] == s["runs"] else "yellow")
    left = (
        (folder.PICTURE, "curves, and the metric by value"),
        (folder.SETTINGS, "a row a setting: mean, standard deviation, n"),
        (folder.TABLE, "a row a run"),
        (folder.CURVES, "every run's curves"),
        (files.SWEEP, "the sweep, resolved"),
    )
    grid = Table.grid(padding=(0, 2))
    for name, words in left:
        if (sweep.out / name).exists():
            grid.add_row(str(sweep.out / name), f"[dim]{words}[/]")
    to.print()
    to.print(grid)


def _out(path: Path | None, experiment: Any) -> Path:
    """The next free number under `runs/`."""
    pieces = experiment.pieces
    name = f"{pieces['data'].name}-{pieces['algorithm'].name}" if path is None else path.stem
    name = (re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run") + "-sweep"
    taken = [p.name.removeprefix(f"{name}-") for p in Path("runs").glob(f"{name}-*")]
    number = 1 + max((int(t) for t in taken if t.isdecimal()), default=0)
    out = Path("runs") / f"{name}-{number}"
    files.check_free(out)
    return out
