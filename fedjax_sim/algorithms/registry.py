"""Algorithms by name, for experiment files and the command line."""

from __future__ import annotations

from fedjax_sim.algorithms.entries import averaging, clustered, control, fair, saddles
from fedjax_sim.algorithms.entry import Entry

FAMILIES: dict[str, dict[str, Entry]] = {
    "averages and baselines": averaging.ENTRIES,
    "against client drift": control.ENTRIES,
    "out of saddles": saddles.ENTRIES,
    "fair": fair.ENTRIES,
    "groups": clustered.ENTRIES,
}
"""Titles of the families, in the order of the catalogue."""

ALGORITHMS: dict[str, Entry] = {n: e for family in FAMILIES.values() for n, e in family.items()}
