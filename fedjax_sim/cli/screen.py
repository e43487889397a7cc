"""What a person sees of a run: banner, progress, closing table.

On a terminal rich draws; anywhere else plain lines are written, few enough for a log.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedjax_sim.experiment import files
from fedjax_sim.experiment.files import GROUP
from fedjax_sim.experiment.report import count, duration, measure, size, tables

_PLAIN_EVERY_S = 5.0
_PLAIN_SHARE = 0.1
_LEFT = (
    (files.CURVES, "curves"),
    (files.DRIFT, "do the clients pull the same way?"),
    (files.TIMELINE, "who waits for whom on the virtual clock"),
    (files.METRICS, "a record a round"),
    (files.SUMMARY, "summary"),
    (files.FINAL, "the trained model; fedjax_sim.load reads it"),
    (files.CONFIG, "the experiment, resolved"),
    (files.CHECKPOINTS, "to go on from"),
)


def console() -> Console:
    """The console of standard output; wide enough for a log where there is no terminal."""
    made = Console(highlight=False, soft_wrap=False)
    return made if made.is_terminal else Console(highlight=False, width=120)


def banner(to: Console, experiment: Any, built: Any, session: Any, out: Path) -> None:
    """Tell what is about to run."""
    from rich.panel import Panel

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    lines = [*_federation(built.federation), *_method(experiment, built, session)]
    for name, text in [*lines, ("out", str(out))]:
        grid.add_row(name, text)
    title = f"[bold]{built.recipe.name}[/] on [bold]{built.federation.name}[/]"
    if to.is_terminal:
        to.print(Panel(grid, title=title, title_align="left", border_style="cyan", expand=False))
    else:
        to.print(f"{built.recipe.name} on {built.federation.name}")
        to.print(grid)
    for note in experiment.notes:
        to.print(f"note: {note}", style="yellow")


def _federation(fed: Any) -> Iterator[tuple[str, str]]:
    from fedjax_sim.data.report import facts

    f = facts(fed)
    sizes = f"{f['size_min']:,} to {f['size_max']:,} each, median {f['size_median']:,.0f}"
    if f["size_min"] == f["size_max"]:
        sizes = f"{f['size_min']:,} each"
    yield "clients", f"{f['clients']:,} with {f['examples']:,} examples, {sizes}"
    held = {"test_examples": "at the clients", "central_test_examples": "held centrally"}
    tests = [f"{f[name]:,} {words}" for name, words in held.items() if f[name]]
    yield "test", ", ".join(tests) or "none: only the training loss will be known"
    if "classes" in f:
        skew = f"{f['effective_classes_mean']:.1f} effective a client"
        yield "labels", f"{f['classes']} classes, {skew}"


def _method(experiment: Any, built: Any, session: Any) -> Iterator[tuple[str, str]]:
    import jax

    from fedjax_sim.core import tree

    client, settings = experiment.client, session.settings
    shapes = jax.eval_shape(built.task.init, jax.random.key(0))
    n = tree.n_entries(shapes.params)
    yield "model", f"{built.facts['model']}, {n:,} parameters ({size(tree.n_bytes(shapes))})"
    how = f"{client.optimizer}, rate {client.learning_rate:g}"
    if hasattr(client, "batch_size"):
        passes = [count(client.epochs, "epoch")] if client.epochs else []
        passes += [f"at most {count(client.steps, 'step')}"] if client.steps else []
        batch = "whole batches" if client.batch_size == "full" else f"batch {client.batch_size}"
        how += f", {', '.join(passes)}, {batch}"
    yield "local work", how
    yield "rounds", f"{settings.rounds:,} with {count(settings.cohort, 'client')} each"
    kind = jax.devices()[0].platform
    lanes, devices = count(settings.lanes, "lane"), count(settings.devices, f"{kind} device")
    yield "plan", f"{lanes} x {devices}, {count(settings.chunk, 'round')} a dispatch"


@contextlib.contextmanager
def progress(to: Console) -> Generator[Callable[[Any], None]]:
    """A listener for `Session.run`: a bar on a terminal, lines elsewhere."""
    if not to.is_terminal:
        yield _Lines(to)
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn(style="cyan"),
        TextColumn("{task.fields[phase]:<9}"),
        BarColumn(
            bar_width=max(10, min(40, to.width - 84)), complete_style="cyan", finished_style="green"
        ),
        TextColumn("{task.fields[rounds]}"),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=to) as bar:
        task = bar.add_task("", total=None, phase="loading", rounds="", figures="")

        def tell(now: Any) -> None:
            bar.update(
                task,
                total=now.rounds if now.round else None,
                completed=now.round,
                phase=now.phase,
                rounds=f"{now.round}/{now.rounds}",
                figures="  ".join(_figures(now)),
            )

        yield tell


def _figures(now: Any) -> list[str]:
    """Accuracy (the clients' own where there is no central one), loss, speeds, time left."""
    latest, shown = now.latest, []
    accuracies = [n for n in ("test_accuracy", "client_accuracy_mean") if latest.get(n) is not None]
    for name, short in [(n, "acc") for n in accuracies[:1]] + [("train_loss", "loss")]:
        if latest.get(name) is not None:
            shown.append(f"{short} {measure(name, latest[name])}")
    if now.rounds_per_second:
        shown.append(f"{now.rounds_per_second:.3g} rounds/s")
        shown.append(f"{_short(now.steps_per_second)} steps/s")
    if now.seconds_left and now.phase == "training":
        shown.append(f"{duration(now.seconds_left)} left")
    return shown


def _short(number: float) -> str:
    return f"{number / 1000:.3g}k" if number >= 1000 else f"{number:.3g}"


class _Lines:
    """A plain line at the start, every 5 seconds or tenth of the rounds, and at the end."""

    def __init__(self, to: Console) -> None:
        self._to, self._round, self._time = to, 0, time.monotonic()
        self._last = ""

    def __call__(self, now: Any) -> None:
        late = time.monotonic() - self._time >= _PLAIN_EVERY_S
        far = now.round - self._round >= _PLAIN_SHARE * now.rounds
        if now.phase == "training" and not (late or far or now.round == now.rounds):
            return
        self._round, self._time = now.round, time.monotonic()
        line = "  ".join(
            [f"round {now.round:>{len(str(now.rounds))}}/{now.rounds}", *_figures(now)]
        )
        if now.phase == "compiling":
            line = "compiling"
        if line != self._last:
            self._to.print(line)
        self._last = line


def closing(to: Console, run: Any, out: Path) -> None:
    """Tell how a run ended, what it came to, and where it lies."""
    if run.finished_before:
        to.print(f"nothing left to do: all {run.summary['rounds']:,} rounds were done before")
    elif run.resumed_from:
        to.print(f"went on after round {run.resumed_from:,}", style="dim")
    closing_of(to, run.records, run.summary, out)
    for note in run.notes:
        to.print(f"note: {note}", style="yellow")
    if run.status == "diverged":
        to.print(
            f"diverged in round {run.summary['rounds']:,}: a number is no longer finite. A lower "
            "client.learning_rate often helps; all records are kept.",
            style="bold red",
        )
    for line in events_of(run.summary):
        to.print(line, style="yellow")


def events_of(summary: Mapping[str, Any]) -> list[str]:
    """What a run's policy did, a line an action."""
    lines = []
    for event in summary.get("policy", {}).get("events", ()):
        why = event["verdict"] or "a number is not finite"
        line = f"policy: round {event['round']:,}, {why}: {event['action']}"
        if "factor" in event:
            line += f", server steps x {event['factor']:g}"
        if "back_to" in event:
            line += f", back to round {event['back_to']:,}"
        lines.append(line)
    return lines


def closing_of(
    to: Console, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], out: Path
) -> None:
    """The closing tables, and the files of a run's folder."""
    for table in tables(records, summary):
        to.print(table)
    grid = Table.grid(padding=(0, 2))
    for name, words in _LEFT:
        path = out / name
        if name == files.FINAL and (path / f"{GROUP}0").is_dir():
            words = "a model for each group; fedjax_sim.load(DIR, group=0) reads one"
        if path.exists():
            grid.add_row(f"{path}/" if path.is_dir() else str(path), f"[dim]{words}[/]")
    to.print()
    to.print(grid)
