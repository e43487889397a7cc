"""What the registry says of one algorithm: its builder, parameters, paper.

Builders are named, not imported, so that a listing starts no JAX. One algorithm is one
entry; a test holds every entry to its builder's signature and defaults.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Paper:
    """One paper.

    Attributes:
      key: its BibTeX key.
      title: as printed.
      authors: in BibTeX's form, joined by `and`.
      venue: where it appeared.
      year: of that.
      arxiv: the arXiv number, or empty where there is none.
      doi: the digital object identifier, for papers that are not on arXiv.
      url: where it can be read, for papers that have neither.
    """

    key: str
    title: str
    authors: str
    venue: str
    year: int
    arxiv: str = ""
    doi: str = ""
    url: str = ""

    @property
    def link(self) -> str:
        """Where it can be read."""
        found = f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""
        return found or (f"https://doi.org/{self.doi}" if self.doi else self.url)

    @property
    def bibtex(self) -> str:
        """The BibTeX entry."""
        fields = {
            "title": f"{{{self.title}}}",
            "author": self.authors,
            "booktitle": self.venue,
            "year": str(self.year),
        }
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archiveprefix": "arXiv"}
        if self.doi:
            fields |= {"doi": self.doi}
        if self.url:
            fields |= {"url": self.url}
        body = ",\n".join(f"  {name:<13} = {{{value}}}" for name, value in fields.items())
        return f"@inproceedings{{{self.key},\n{body}\n}}"


@dataclasses.dataclass(frozen=True)
class Param:
    """A parameter that an experiment file may set in `[algorithm]`.

    Attributes:
      default: used where the file says nothing.
      doc: one line.
      low: smallest value, or None.
      high: largest value, or None.
      above: every value is greater than this, or None.
      below: every value is less than this, or None.
      choices: the words that are accepted; a number otherwise.
      whole: a whole number, which is static: another value compiles anew.
      forms: words with a number in them that are accepted beside `choices`: `capped:N`.
    """

    default: float | str
    doc: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    whole: bool = False
    forms: tuple[str, ...] = ()

    @property
    def type(self) -> type:
        """`str` for a choice of words, `int` for whole numbers, `float` otherwise."""
        return str if self.choices else int if self.whole else float

    @property
    def range(self) -> str:
        """What is accepted, in words short enough for a table."""
        if self.choices:
            return "|".join((*self.choices, *self.forms))
        left = f"[{self.low:g}" if self.low is not None else "("
        left += "" if self.low is not None else "-inf" if self.above is None else f"{self.above:g}"
        right = f"{self.high:g}]" if self.high is not None else None
        right = right or ("inf)" if self.below is None else f"{self.below:g})")
        return f"{left}, {right}" + (" whole" if self.whole else "")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One algorithm.

    Attributes:
      builder: `module:name` of the recipe builder.
      doc: one line.
      params: what `[algorithm]` may set.
      paper: where it comes from, or None for a baseline.
      tags: words to search by.
      client_rate: learning rate where `[client]` gives none; the bundled experiment's own rate
        gives way to it. None: 0.1, and the bundled rate is as good.
      model: the `[model]` without which it is FedAvg; the bundled experiment's gives way to it.
      batches: whether clients take local steps (`epochs`, `steps`, `batch_size`, ...).
      server: whether `[server]` may name an optimizer.
      schedule: whether the client's rate may follow the round.
      from_client: builder arguments that repeat a field of `[client]`.
      from_data: builder arguments that are facts of the data: `{argument: key of its meta}`;
        left at their defaults where the data do not know them.
      equation: the update in LaTeX, for the page of the catalogue.
      cost: what it adds to FedAvg: passes over the data, bytes a client's row, traffic.
    """

    builder: str
    doc: str
    params: dict[str, Param] = dataclasses.field(default_factory=dict)
    paper: Paper | None = None
    tags: tuple[str, ...] = ()
    client_rate: float | None = None
    model: dict[str, str] | None = None
    batches: bool = True
    server: bool = False
    schedule: bool = True
    from_client: dict[str, str] = dataclasses.field(default_factory=dict)
    from_data: dict[str, str] = dataclasses.field(default_factory=dict)
    equation: str = ""
    cost: str = ""

    def load(self) -> Callable[..., Any]:
        """Import the builder."""
        module, _, name = self.builder.partition(":")
        return getattr(importlib.import_module(module), name)


def weighting(default: str) -> dict[str, Param]:
    """The parameter that says what clients weigh."""
    doc = "a client's weight: its n examples, 1, its local steps, equal groups, min(n, N), or n^A"
    words, forms = ("examples", "uniform", "steps", "groups"), ("capped:N", "power:A")
    return {"weighting": Param(default, doc, choices=words, forms=forms)}


def server_rate(default: float) -> dict[str, Param]:
    """The parameter of servers that step with plain SGD."""
    return {"server_rate": Param(default, "learning rate of the server", above=0)}
