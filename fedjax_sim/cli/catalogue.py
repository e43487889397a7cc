"""The catalogue of algorithms on a terminal: one line each, or one of them in full."""

from __future__ import annotations

import difflib

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedjax_sim.algorithms.entry import Entry
from fedjax_sim.algorithms.registry import ALGORITHMS, FAMILIES
from fedjax_sim.core.checks import InputError

_ROOM = len("arXiv:0000.00000")
HINT = (
    'fedjax-sim list algorithms NAME tells all of one, --tag "client state" picks, --bibtex cites; '
    'or name "package.module:function" of your own'
)


def show_all(to: Console, tag: str | None = None) -> None:
    """A table of all algorithms by family, or of those with a tag."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("algorithm", no_wrap=True, style="bold cyan")
    table.add_column("what it does", ratio=3)
    table.add_column("[algorithm] takes".replace("[", r"\["), ratio=2)
    table.add_column("paper", no_wrap=True)
    shown = 0
    for title, family in FAMILIES.items():
        chosen = {n: e for n, e in family.items() if tag is None or tag in e.tags}
        if not chosen:
            continue
        table.add_row("", Text(title.upper(), style="bold"), "", "")  # the widest column
        for name, entry in chosen.items():
            table.add_row(name, Text(entry.doc), Text(_defaults(entry)), _short(entry))
        shown += len(chosen)
    if not shown:
        tags = ", ".join(sorted({t for e in ALGORITHMS.values() for t in e.tags}))
        raise InputError("--tag", tag, f"must be one of: {tags}")
    to.print(table)
    to.print(f"{shown} algorithms; {HINT}", style="dim", markup=False)


def show_one(to: Console, name: str) -> None:
    """All that the registry knows of one algorithm.

    Raises:
      InputError: an unknown name, with those that are near.
    """
    if name not in ALGORITHMS:
        near = difflib.get_close_matches(name, ALGORITHMS, n=3)
        remedy = f"did you mean {' or '.join(near)}?" if near else "see fedjax-sim list algorithms"
        raise InputError("algorithm", name, remedy)
    entry = ALGORITHMS[name]
    to.print(Text.assemble((name, "bold cyan"), f"  {entry.doc}"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for title, text in _facts(entry):
        grid.add_row(title, Text(text))
    to.print(grid)
    if entry.params:
        to.print(_knobs(entry))
    to.print(Text(f"fedjax-sim run --algorithm {name}{_example(entry)}", style="green"))


def _facts(entry: Entry) -> list[tuple[str, str]]:
    facts = [("tags", ", ".join(entry.tags)), ("cost", entry.cost), ("update", entry.equation)]
    if entry.paper is not None:
        paper = entry.paper
        facts.append(("paper", f"{paper.title}. {paper.venue} {paper.year}. {_source(entry)}"))
    facts.append(("builder", entry.builder))
    return [(title, text) for title, text in facts if text]


def _knobs(entry: Entry) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title in (r"\[algorithm]", "default", "range", "what it is"):
        table.add_column(title)
    for name, param in entry.params.items():
        table.add_row(name, Text(str(param.default)), Text(param.range), Text(param.doc))
    return table


def _example(entry: Entry) -> str:
    """The first number of the algorithm, as one sets it."""
    numbers = [(n, p.default) for n, p in entry.params.items() if not isinstance(p.default, str)]
    return "".join(f" --algorithm.{n} {value}" for n, value in numbers[:1])


def _defaults(entry: Entry) -> str:
    """What is its own: nearly all take a weighting."""
    own = {n: p for n, p in entry.params.items() if n != "weighting"}
    return ", ".join(f"{n}={p.default}" for n, p in own.items()) or "-"


def _short(entry: Entry) -> str:
    """The source where there is room for it, else its year."""
    found = _source(entry)
    return found if len(found) <= _ROOM or entry.paper is None else f"{entry.paper.year}, doi"


def _source(entry: Entry) -> str:
    if entry.paper is None:
        return "-"
    found = f"arXiv:{entry.paper.arxiv}" if entry.paper.arxiv else ""
    return found or (f"doi:{entry.paper.doi}" if entry.paper.doi else entry.paper.url)
