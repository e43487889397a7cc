"""Algorithms and aggregators by name, for experiment files and the command line."""

from __future__ import annotations

from fedjax_sim.algorithms.entries import averaging, clustered, control, fair, saddles
from fedjax_sim.algorithms.entry import Entry

ALGORITHMS: dict[str, Entry] = (
    averaging.ENTRIES | control.ENTRIES | saddles.ENTRIES | fair.ENTRIES | clustered.ENTRIES
)
