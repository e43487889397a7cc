"""The system that a run is simulated on: plain values, checked once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fedjax_sim.core.checks import InputError, choice, integer, number
from fedjax_sim.sampling.deadline import LATE

FLEETS = ("phones", "equal")
SELECTS = ("uniform", "tiers", "adaptive_tiers", "equal_time")
AVAILABILITIES = ("always", "bernoulli", "diurnal", "markov")


@dataclasses.dataclass(frozen=True)
class Systems:
    """Devices, links and a virtual clock for a run; its records then carry virtual seconds.

    Attributes:
      fleet: `phones`: speeds of 333 phones, links of 19 users. `equal`: all are the median.
      select: who is chosen. `uniform`; `tiers`: of one tier of equally fast clients, a tier
        being drawn each round (TiFL); `adaptive_tiers`: the tier by training loss and credits;
        `equal_time`: uniformly, and all work equally long (use `fednova`).
      deadline_s: virtual seconds after which a round ends; None: it waits for everybody.
      late: what those do who cannot make the deadline: `absent` or `partial` work.
      over_select: share of clients chosen beyond the cohort; the round ends with the cohort's
        number of reports.
      dropout: chance that a chosen client never reports.
      availability: when clients can be reached.
      online: share of time in which they can, unless `always`.
      tiers: how many.
      tier_probabilities: of `tiers`, the fastest first; None: equal.
      tier_interval: rounds between two looks of `adaptive_tiers` at the losses.
      retier_every: rounds between two cuts of the tiers by measured latency; 0: they stay.
      equal_share: of clients that `equal_time` leaves the time for all of their work.
      median_flops: FLOP/s of the median device while it trains.
      seed: of the fleet.
      correlate: Spearman's rank correlation of device speed with `correlate_with`.
      correlate_with: `size`, the clients' examples, or `group`, those planted in the data.
    """

    fleet: str = "phones"
    select: str = "uniform"
    deadline_s: float | None = None
    late: str = "absent"
    over_select: float = 0.0
    dropout: float = 0.0
    availability: str = "always"
    online: float = 0.8
    tiers: int = 5
    tier_probabilities: Sequence[float] | None = None
    tier_interval: int = 10
    retier_every: int = 0
    equal_share: float = 0.5
    median_flops: float = 2e9
    seed: int = 0
    correlate: float = 0.0
    correlate_with: str = "size"

    def __post_init__(self) -> None:
        words = {
            "fleet": FLEETS,
            "select": SELECTS,
            "late": LATE,
            "availability": AVAILABILITIES,
            "correlate_with": ("size", "group"),
        }
        for name, options in words.items():
            choice(f"systems.{name}", getattr(self, name), options)
        if self.deadline_s is not None:
            number("systems.deadline_s", self.deadline_s, above=0)
        elif self.late == "partial":
            remedy = "is work that fits a deadline: give systems.deadline_s too"
            raise InputError("systems.late", "partial", remedy)
        number("systems.over_select", self.over_select, least=0)
        for name in ("dropout", "online", "equal_share"):
            number(f"systems.{name}", getattr(self, name), least=0, most=1)
        number("systems.correlate", self.correlate, least=-1, most=1)
        number("systems.median_flops", self.median_flops, above=0)
        for name, least in (("tiers", 1), ("tier_interval", 1), ("retier_every", 0), ("seed", 0)):
            integer(f"systems.{name}", getattr(self, name), least=least, most=2**31 - 1)
        if self.tier_probabilities is not None and self.select != "tiers":
            remedy = 'is of select = "tiers", whose tiers are drawn by fixed probabilities'
            raise InputError("systems.tier_probabilities", self.tier_probabilities, remedy)
        if self.tier_probabilities is not None:
            self._check_probabilities()

    def _check_probabilities(self) -> None:
        name, given = "systems.tier_probabilities", self.tier_probabilities
        remedy = f"must be {self.tiers} numbers, one for each tier"
        try:
            odds = np.asarray(given, float)
        except (TypeError, ValueError):
            raise InputError(name, given, remedy) from None
        if odds.shape != (self.tiers,):
            raise InputError(name, given, remedy)
        number(name, odds, least=0)
