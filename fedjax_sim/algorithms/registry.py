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
    doc = "a client's weight: its n examples, 1, its local steps, equal groups, min(n, N), or n^A"
    words, forms = ("examples", "uniform", "steps", "groups"), ("capped:N", "power:A")
    return {"weighting": Param(default, doc, choices=words, forms=forms)}


def _server_rate(default: float) -> dict[str, Param]:
    return {"server_rate": Param(default, "learning rate of the server", above=0)}


_TAU = {"tau": Param(1e-3, "degree of adaptivity: what is added to the root", above=0)}
_MOMENTS = {
    "b1": Param(0.9, "decay of the first moment", low=0, below=1),
    "b2": Param(0.99, "decay of the second moment", low=0, below=1),
}
_GROUPS = {"groups": Param(2, "groups, each with a model", low=1, whole=True)}
_STARTS = {
    "start": Param("fresh", "the first models", choices=("fresh", "perturbed", "same")),
    "spread": Param(0.1, "standard deviation of a perturbed start", low=0),
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
    "qfedavg": Entry(
        _ALGORITHMS + "qfedavg:qfedavg",
        "clients with a higher loss count more, by its q-th power",
        {"q": Param(1.0, "0 is uniform fedavg; larger is fairer", low=0)} | _weighting("uniform"),
        papers.QFFL,
        ("local steps", "fairness"),
        server=True,
        from_client={"rate": "learning_rate"},
    ),
    "term": Entry(
        _ALGORITHMS + "term:term",
        "clients with a higher loss count more, by exp(t loss)",
        {"t": Param(1.0, "tilt: 0 is uniform fedavg; below 0 outliers count less")}
        | _weighting("uniform"),
        papers.TERM,
        ("local steps", "fairness", "robust"),
        server=True,
    ),
    "afl": Entry(
        _ALGORITHMS + "afl:afl",
        "does best on the worst mixture of clients, or of the groups planted in the data",
        {"lambda_rate": Param(0.1, "of the domains' weights", low=0)} | _weighting("examples"),
        papers.AFL,
        ("local steps", "fairness", "groups"),
        server=True,
        from_data={"groups": "group"},
    ),
    "fedmgda": Entry(
        _ALGORITHMS + "fedmgda:fedmgda",
        "shortest mixture of the updates' directions, near their weights, K x P memory",
        {"epsilon": Param(0.1, "how far a part may be from its weight", low=0, high=1)}
        | _weighting("uniform"),
        papers.FEDMGDA,
        ("local steps", "fairness"),
        server=True,
    ),
    "cfl": Entry(
        _ALGORITHMS + "cfl:cfl",
        "cuts a group at rest in two where its clients pull different ways, K x P memory",
        {
            "groups": Param(4, "the most groups there may be", low=1, whole=True),
            "eps1": Param(0.2, "mean update below which a group is at rest", low=0),
            "eps2": Param(0.8, "client update above which the client is not", low=0),
            "gamma_max": Param(0.7, "how far a client may be from its true group", low=0, below=1),
            "gap": Param(-2.0, "least cosine within minus largest across; -2 asks for none"),
            "norms": Param(
                "relative",
                "to the group's longest update and to the longest of round 1, or absolute",
                choices=("absolute", "relative"),
            ),
        }
        | _weighting("examples"),
        papers.CFL,
        ("local steps", "groups"),
        server=True,
    ),
    "fedem": Entry(
        _ALGORITHMS + "fedem:fedem",
        "every client a mixture of M shared models, by EM; client metrics only",
        {
            "groups": Param(3, "components", low=1, whole=True),
            "start": Param("fresh", "the first components", choices=("fresh", "perturbed", "same")),
            "spread": Param(0.1, "standard deviation of a perturbed start", low=0),
            "outputs": Param(
                "auto",
                "what is mixed: class probabilities, or the outputs as they are",
                choices=("auto", "probabilities", "values"),
            ),
        }
        | _weighting("examples"),
        papers.FEDEM,
        ("local steps", "groups", "client state"),
        server=True,
    ),
    "ifca": Entry(
        _ALGORITHMS + "ifca:ifca",
        "M models; each client trains the one of lowest loss on its data; client metrics only",
        _GROUPS | _STARTS | _weighting("uniform"),
        papers.IFCA,
        ("local steps", "groups", "client state"),
        server=True,
    ),
    "ifca_gradient": Entry(
        _ALGORITHMS + "ifca:ifca_gradient",
        "ifca with one exact gradient a client; [client] is the server's optimizer",
        _GROUPS | _STARTS | _weighting("uniform"),
        papers.IFCA,
        ("gradient", "groups", "client state"),
        batches=False,
        schedule=False,
    ),
    "hypcluster": Entry(
        _ALGORITHMS + "hypcluster:hypcluster",
        "ifca by examples, after rounds of random groups; client metrics only",
        _GROUPS
        | {"warmup": Param(1, "rounds of random groups", low=0, whole=True)}
        | _STARTS
        | _weighting("examples"),
        papers.HYPCLUSTER,
        ("local steps", "groups", "client state"),
        server=True,
    ),
    "grouped": Entry(
        _ALGORITHMS + "grouped:grouped",
        "one model for each group of clients with alike first updates; client metrics only",
        _GROUPS
        | {
            "warmup": Param(1, "rounds before clients are grouped", low=1, whole=True),
            "every": Param(
                0, "rounds from one regrouping to the next; 0: never", low=0, whole=True
            ),
            "sketch": Param(256, "numbers that an update is compared by", low=1, whole=True),
            "separation": Param(
                0.3, "silhouette below which all stay together; -1: never", low=-1, high=1
            ),
        }
        | _weighting("examples"),
        papers.FEDGROUP,
        ("local steps", "groups"),
        server=True,
    ),
    "hierfavg": Entry(
        _ALGORITHMS + "hierfavg:hierfavg",
        "edge servers average each round, the cloud averages them at times",
        {
            "edges": Param(2, "edge servers; client i is at edge i % edges", low=1, whole=True),
            "edge_rounds": Param(2, "rounds from one meeting to the next", low=1, whole=True),
        }
        | _weighting("examples"),
        papers.HIERFAVG,
        ("local steps", "groups", "hierarchy"),
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
