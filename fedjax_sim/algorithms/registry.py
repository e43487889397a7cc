"""Algorithms by name, for experiment files and the command line."""

from __future__ import annotations

from fedjax_sim.algorithms.entries import (
    architectures,
    averaging,
    clustered,
    control,
    fair,
    generic,
    neighbours,
    parts,
    personal,
    saddles,
    widths,
)
from fedjax_sim.algorithms.entry import Entry

FAMILIES: dict[str, dict[str, Entry]] = {
    "averages and baselines": averaging.ENTRIES,
    "against client drift": control.ENTRIES,
    "momentum and losses": generic.ENTRIES,
    "out of saddles": saddles.ENTRIES,
    "fair": fair.ENTRIES,
    "groups": clustered.ENTRIES,
    "a part of the model for oneself": parts.ENTRIES,
    "a model for oneself": personal.ENTRIES,
    "models of others, and memory": neighbours.ENTRIES,
    "unrelated architectures": architectures.ENTRIES,
    "parts of different width or depth": widths.ENTRIES,
}
"""Titles of the families, in the order of the catalogue."""

ALGORITHMS: dict[str, Entry] = {n: e for family in FAMILIES.values() for n, e in family.items()}
