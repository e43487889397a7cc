"""Write docs/algorithms.md from the registry and the record of benchmarks/algorithms/catalogue.py.

    python docs/catalogue.py

A test holds the page to what this makes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_sim.algorithms.entry import Entry
from fedjax_sim.algorithms.registry import ALGORITHMS, FAMILIES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "algorithms.md"
RECORD = ROOT / "benchmarks" / "results" / "algorithms.json"
COLUMNS = (("digits", "client"), ("digits", "shared"), ("mnist", "client"), ("mnist", "shared"))

Results = dict[str, dict[tuple[str, str], list[float]]]


def results() -> Results:
    """`{algorithm: {(data, what): accuracies by seed}}` of the record, in percent."""
    found: Results = defaultdict(lambda: defaultdict(list))
    for row in json.loads(RECORD.read_text())["rows"] if RECORD.exists() else []:
        for what in ("client", "p10", "shared"):
            if what in row:
                found[row["algorithm"]][row["data"], what].append(100 * row[what])
    return found


def page(measured: Results) -> str:
    """The whole page."""
    parts = [_head(), _table(measured)]
    for title, family in FAMILIES.items():
        parts.append(f"## {title[0].upper()}{title[1:]}")
        parts += [_section(name, entry, measured.get(name, {})) for name, entry in family.items()]
    return "\n\n".join(parts) + "\n"


def _head() -> str:
    return f"""# The catalogue: {len(ALGORITHMS)} algorithms

Made by `python docs/catalogue.py` from the registry and `benchmarks/results/algorithms.json`; not
edited by hand. `fedjax-sim list algorithms NAME` tells the same on a terminal, and
`fedjax-sim run --algorithm NAME` runs each of them on the bundled digits. From Python each is
`fs.algorithms.NAME(optax.sgd(0.1), epochs=2, batch_size=10, ...)`.

Letters: x the shared model, y a client's while it trains, i a client, g its gradient on a batch,
p its weight, eta its rate; N clients, K of them a round, P parameters."""


def _table(measured: Results) -> str:
    head = "| algorithm | digits, clients | digits, shared | MNIST, clients | MNIST, shared |"
    lines = [head, "|---|---|---|---|---|"]
    for name in ALGORITHMS:
        cells = [_spread(measured.get(name, {}).get(column, [])) for column in COLUMNS]
        lines.append(f"| [{name}](#{name}) | {' | '.join(cells)} |")
    told = """## What to expect

Accuracy in percent, mean of three seeds (lowest to highest), after 60 rounds of 10 clients at
default parameters, none tuned: 20 clients of digits with labels by Dirichlet(0.3), 50 clients of
MNIST with 300 examples of two classes each. *Clients*: on each client's own test examples, with
the model that it would use. *Shared*: the shared model on the central test set. A dash: no model is
shared, or not measured yet. About 10 %: it diverged at the common rate of 0.1. Made by
`benchmarks/algorithms/catalogue.py`, which says more."""
    return told + "\n\n" + "\n".join(lines)


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _section(name: str, entry: Entry, measured: dict[Any, list[float]]) -> str:
    doc = entry.doc[0].upper() + entry.doc[1:]
    lines = [f"### {name}", "", f"{doc}."]
    if entry.equation:
        lines += ["", f"$${entry.equation}$$"]
    lines.append("")
    facts = [("cost", entry.cost), ("tags", ", ".join(entry.tags)), ("paper", _cited(entry))]
    facts += [(f"{data}, {what}", _spread(v)) for (data, what), v in sorted(measured.items())]
    lines += [f"- **{title}**: {text}" for title, text in facts if text]
    if entry.params:
        lines += ["", "| knob | default | range | what it is |", "|---|---|---|---|"]
        for knob, p in entry.params.items():
            cells = (f"`{knob}`", f"`{p.default}`", p.range.replace("|", r"\|"), p.doc)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cited(entry: Entry) -> str:
    if entry.paper is None:
        return ""
    paper = entry.paper
    where = f"{paper.venue}, {paper.year}"
    return f"[{paper.title}]({paper.link}). {where}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(results()))
    print(f"{PAGE.relative_to(ROOT)}: {len(ALGORITHMS)} algorithms")


if __name__ == "__main__":
    main()
