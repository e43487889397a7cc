"""`fedjax-sim list`: what can be named in an experiment."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from fedjax_sim.algorithms.aggregators import AGGREGATORS
from fedjax_sim.algorithms.registry import ALGORITHMS
from fedjax_sim.core.checks import InputError


def main(arguments: argparse.Namespace) -> int:
    """Print one table."""
    if arguments.what == "algorithms":
        return _algorithms(arguments)
    for option in ("name", "tag", "bibtex"):
        if getattr(arguments, option):
            remedy = f"goes with list algorithms, not with list {arguments.what}"
            raise InputError(option, getattr(arguments, option), remedy)
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from fedjax_sim.cli.screen import console

    head, rows = _TABLES[arguments.what]()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, title in enumerate(head):
        table.add_column(Text(title), style="bold cyan" if i == 0 else None, no_wrap=i == 0)
    for row in rows:
        table.add_row(*map(Text, row))  # as text: [client] is no markup
    to = console()
    to.print(table)
    to.print(_HINTS[arguments.what], style="dim", markup=False)
    return 0


def _algorithms(arguments: argparse.Namespace) -> int:
    chosen = [ALGORITHMS[arguments.name]] if arguments.name in ALGORITHMS else ALGORITHMS.values()
    if arguments.bibtex:
        papers = {e.paper.key: e.paper for e in chosen if e.paper is not None}
        print("\n\n".join(paper.bibtex for paper in papers.values()))
        return 0
    from fedjax_sim.cli import catalogue
    from fedjax_sim.cli.screen import console

    if arguments.name:
        catalogue.show_one(console(), arguments.name)
    else:
        catalogue.show_all(console(), arguments.tag)
    return 0


Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]


def _datasets() -> Rows:
    from fedjax_sim.data.registry import DATASETS

    rows = [
        (n, _plain(e.doc), _params(e.builder, ("partition",)), "" if e.takes_partition else "given")
        for n, e in DATASETS.items()
    ]
    return ("dataset", "what it is", "[data] takes", "clients"), rows


def _partitions() -> Rows:
    from fedjax_sim.data.registry import PARTITIONS

    rows = [(n, _plain(e.doc), _params(e.builder)) for n, e in PARTITIONS.items()]
    return ("partition", "who holds what", "[data.partition] takes"), rows


def _plants() -> Rows:
    from fedjax_sim.data.registry import PLANTS

    rows = [(n, _plain(e.doc), _params(e.builder, ("federation",))) for n, e in PLANTS.items()]
    return ("plant", "which groups it plants in a dataset", "[data.plant] takes"), rows


def _models() -> Rows:
    from fedjax_sim.tasks.registry import MODELS

    rows = [(n, e.doc, _params(e.build)) for n, e in MODELS.items()]
    return ("model", "what it is", "[model] takes"), rows


def _aggregators() -> Rows:
    rows = [(n, r.doc, r.memory, r.builder) for n, r in AGGREGATORS.items()]
    return ("aggregator", "what it does", "memory", "where"), rows


def _params(builder: Any, without: tuple[str, ...] = ()) -> str:
    shown = []
    for name, p in inspect.signature(builder).parameters.items():
        if name not in without:
            empty = p.default is p.empty
            default = list(p.default) if isinstance(p.default, tuple) else p.default
            shown.append(name if empty else f"{name}={_toml(default)}")
    return ", ".join(shown) or "-"


def _toml(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _plain(doc: str) -> str:
    return doc.replace("`", "")


_TABLES = {
    "datasets": _datasets,
    "models": _models,
    "partitions": _partitions,
    "plants": _plants,
    "aggregators": _aggregators,
}
_OWN = 'or "package.module:function" of your own'
_HINTS = {
    "datasets": f"[data] name = ..., {_OWN}; files are sought in $FEDJAX_SIM_DATA",
    "models": f"[model] name = ..., {_OWN}",
    "partitions": f"[data.partition] name = ..., {_OWN}",
    "plants": f"[data.plant] name = ..., {_OWN}; put over any dataset that suits",
    "aggregators": "an algorithm brings its own; these compose new ones in Python (K cohort, "
    "L lanes, P parameters)",
}
