"""Algorithms by name, for experiment files and the command line.

Builders are named, not imported, so that a listing starts no JAX. One algorithm is one
entry; a test holds every entry to its builder's signature and defaults.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from fedjax_sim.algorithms import papers
from fedjax_sim.algorithms.papers import Paper


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
    """

    default: float | str
    doc: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    whole: bool = False

    @property
    def type(self) -> type:
        """`str` for a choice of words, `int` for whole numbers, `float` otherwise."""
        return str if self.choices else int if self.whole else float

    @property
    def range(self) -> str:
        """What is accepted, in words short enough for a table."""
        if self.choices:
            return "|".join(self.choices)
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
      client_rate: learning rate where `[client]` gives none.
      batches: whether clients take local steps (`epochs`, `steps`, `batch_size`, ...).
      server: whether `[server]` may name an optimizer.
      schedule: whether the client's rate may follow the round.
      from_client: builder arguments that repeat a field of `[client]`.
      from_data: builder arguments that are facts of the data: `{argument: key of its meta}`;
        left at their defaults where the data do not know them.
    """

    builder: str
    doc: str
    params: dict[str, Param] = dataclasses.field(default_factory=dict)
    paper: Paper | None = None
    tags: tuple[str, ...] = ()
    client_rate: float = 0.1
    batches: bool = True
    server: bool = False
    schedule: bool = True
    from_client: dict[str, str] = dataclasses.field(default_factory=dict)
    from_data: dict[str, str] = dataclasses.field(default_factory=dict)

    def load(self) -> Callable[..., Any]:
        """Import the builder."""
        module, _, name = self.builder.partition(":")
        return getattr(importlib.import_module(module), name)


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


def _weighting(default: str) -> dict[str, Param]:
    doc = "a client's weight: its examples, 1, or its local steps"
    return {"weighting": Param(default, doc, choices=("examples", "uniform", "steps"))}


def _server_rate(default: float) -> dict[str, Param]:
    return {"server_rate": Param(default, "learning rate of the server", above=0)}


_TAU = {"tau": Param(1e-3, "degree of adaptivity: what is added to the root", above=0)}
_MOMENTS = {
    "b1": Param(0.9, "decay of the first moment", low=0, below=1),
    "b2": Param(0.99, "decay of the second moment", low=0, below=1),
}
_ALGORITHMS = "fedjax_sim.algorithms."

ALGORITHMS: dict[str, Entry] = {
    "fedsgd": Entry(
        _ALGORITHMS + "fedsgd:fedsgd",
        "one exact gradient a client a round; [client] is the server's optimizer",
        _weighting("examples"),
        papers.FEDAVG,
        ("gradient",),
        batches=False,
        schedule=False,
    ),
    "fedavg": Entry(
        _ALGORITHMS + "fedavg:fedavg",
        "mean of locally trained models",
        _weighting("examples"),
        papers.FEDAVG,
        ("local steps",),
        server=True,
    ),
    "fedavgm": Entry(
        _ALGORITHMS + "fedavg:fedavgm",
        "fedavg with momentum at the server",
        _server_rate(1.0)
        | {"server_momentum": Param(0.9, "of the server", low=0, below=1)}
        | _weighting("examples"),
        papers.FEDAVGM,
        ("local steps", "server optimizer"),
    ),
    "fedadam": Entry(
        _ALGORITHMS + "fedavg:fedadam",
        "fedavg with Adam at the server",
        _server_rate(0.01) | _MOMENTS | _TAU | _weighting("examples"),
        papers.FEDOPT,
        ("local steps", "server optimizer", "adaptive"),
    ),
    "fedyogi": Entry(
        _ALGORITHMS + "fedavg:fedyogi",
        "fedavg with Yogi at the server",
        _server_rate(0.01) | _MOMENTS | _TAU | _weighting("examples"),
        papers.FEDOPT,
        ("local steps", "server optimizer", "adaptive"),
    ),
    "fedadagrad": Entry(
        _ALGORITHMS + "fedavg:fedadagrad",
        "fedavg with Adagrad at the server",
        _server_rate(0.1)
        | {"initial": Param(1e-6, "second moment before the first round", low=0)}
        | _TAU
        | _weighting("examples"),
        papers.FEDOPT,
        ("local steps", "server optimizer", "adaptive"),
    ),
    "fedprox": Entry(
        _ALGORITHMS + "fedprox:fedprox",
        "local training tied to the global model by mu/2 |y - x|^2",
        {"mu": Param(0.01, "strength of the tie", low=0)} | _weighting("examples"),
        papers.FEDPROX,
        ("local steps", "heterogeneity", "stragglers"),
    ),
    "fednova": Entry(
        _ALGORITHMS + "fednova:fednova",
        "averages updates per local step, so that busy clients count no more",
        _weighting("examples"),
        papers.FEDNOVA,
        ("local steps", "heterogeneity"),
        from_client={"momentum": "momentum"},
    ),
    "scaffold": Entry(
        _ALGORITHMS + "scaffold:scaffold",
        "control variates against client drift; keeps a row a client",
        _server_rate(1.0) | _weighting("uniform"),
        papers.SCAFFOLD,
        ("local steps", "heterogeneity", "client state"),
    ),
    "median": Entry(
        _ALGORITHMS + "median:median",
        "median of every coordinate of the updates, K x P memory",
        {},
        papers.MEDIAN,
        ("local steps", "robust"),
        server=True,
    ),
    "perturbed": Entry(
        _ALGORITHMS + "perturbed:perturbed",
        "fedavg that adds noise where its update is small, to leave saddles",
        {
            "radius": Param(1e-2, "of the ball that noise is drawn from", low=0),
            "threshold": Param(1e-3, "norm below which an update is small", low=0),
            "wait": Param(50.0, "rounds without noise after a perturbation", low=0),
        }
        | _weighting("examples"),
        papers.PERTURBED,
        ("local steps", "saddles"),
        server=True,
    ),
    "negative_curvature": Entry(
        _ALGORITHMS + "negative_curvature:negative_curvature",
        "gradient descent that leaves saddles along negative curvature; [client] is the server's",
        {
            "threshold": Param(1e-2, "norm below which a gradient is small", low=0),
            "tolerance": Param(1e-2, "curvature above minus this counts as none", low=0),
            "lipschitz": Param(1.0, "first guess of how fast the Hessian changes", above=0),
            "probes": Param(20.0, "rounds spent on one direction at most", low=1),
        }
        | _weighting("examples"),
        papers.NEGATIVE_CURVATURE,
        ("gradient", "saddles", "second order"),
        batches=False,
        schedule=False,
    ),
    "centralized": Entry(
        _ALGORITHMS + "baselines:centralized",
        "all data in one place: the upper end of most comparisons",
        tags=("baseline",),
    ),
    "local_only": Entry(
        _ALGORITHMS + "baselines:local_only",
        "every client alone: the other end; client metrics only",
        tags=("baseline", "client state"),
    ),
}

AGGREGATORS: dict[str, Rule] = {
    "mean": Rule("fedjax_sim.aggregation.mean:mean", "weighted mean of the updates", "L x P"),
    "coordinate_median": Rule(
        "fedjax_sim.aggregation.robust:coordinate_median",
        "unweighted median of every coordinate, inside collect()",
        "K x P",
    ),
    "take_one": Rule(
        "fedjax_sim.aggregation.single:take_one", "the one report of a cohort of one", "L x P"
    ),
}
