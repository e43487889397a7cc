"""Aggregators by name, for listings."""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """One aggregator, for listings.

    Attributes:
      builder: `module:name`.
      doc: one line.
      memory: what it holds on a device, in K, L and P.
    """

    builder: str
    doc: str
    memory: str


AGGREGATORS: dict[str, Rule] = {
    "mean": Rule("fedjax_sim.aggregation.mean:mean", "weighted mean of the updates", "L x P"),
    "tilted": Rule(
        "fedjax_sim.aggregation.tilted:tilted",
        "mean with weights known by their logarithm, from an aux value",
        "L x P",
    ),
    "balanced": Rule(
        "fedjax_sim.aggregation.balanced:balanced",
        "mean of group means: groups count the same, or by their shares",
        "L x P + M x P",
    ),
    "with_updates": Rule(
        "fedjax_sim.aggregation.updates:with_updates",
        "any of these that adds up, and the clients' updates one by one beside it",
        "K x P",
    ),
    "min_norm": Rule(
        "fedjax_sim.aggregation.min_norm:min_norm",
        "shortest mixture of the updates' directions, inside collect()",
        "K x P",
    ),
    "grouped": Rule(
        "fedjax_sim.aggregation.grouped:grouped",
        "weighted mean of each of M groups' updates",
        "L x M x P",
    ),
    "coordinate_median": Rule(
        "fedjax_sim.aggregation.robust:coordinate_median",
        "unweighted median of every coordinate, inside collect()",
        "K x P",
    ),
    "take_one": Rule(
        "fedjax_sim.aggregation.single:take_one", "the one report of a cohort of one", "L x P"
    ),
}
