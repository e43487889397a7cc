"""Every algorithm, as the laws see it: a name, a recipe, numbers to change, its cohort."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from helpers import Run, quick_jit, softmax_data, softmax_task

from fedjax_sim.algorithms.afl import afl
from fedjax_sim.algorithms.baselines import centralized, local_only
from fedjax_sim.algorithms.cfl import cfl
from fedjax_sim.algorithms.fedavg import fedadagrad, fedadam, fedavg, fedavgm, fedyogi
from fedjax_sim.algorithms.fedem import fedem
from fedjax_sim.algorithms.fedmgda import fedmgda
from fedjax_sim.algorithms.fednova import fednova
from fedjax_sim.algorithms.fedprox import fedprox
from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.algorithms.grouped import grouped
from fedjax_sim.algorithms.hierfavg import hierfavg
from fedjax_sim.algorithms.hypcluster import hypcluster
from fedjax_sim.algorithms.ifca import ifca, ifca_gradient
from fedjax_sim.algorithms.median import median
from fedjax_sim.algorithms.negative_curvature import negative_curvature
from fedjax_sim.algorithms.perturbed import perturbed
from fedjax_sim.algorithms.qfedavg import qfedavg
from fedjax_sim.algorithms.scaffold import scaffold
from fedjax_sim.algorithms.term import term
from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Cohort, Member
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.engine.plan import Plan

SIZES = (7, 1, 12, 20, 5, 3, 16, 9)
N, K = len(SIZES), 6
SILENT = 5  # where an algorithm takes a weighting, this client has weight zero
CHUNK = 8


def weights(size, steps, ctx):
    """By examples, but nothing for the silent client."""
    del steps
    return jnp.where(ctx.member.id == SILENT, 0, size)


@dataclasses.dataclass(frozen=True)
class Case:
    """One algorithm.

    Attributes:
      recipe: a builder without arguments.
      hyper: numbers to change; each a name in the recipe's `hyper`.
      weighted: whether `weights` is its weighting.
      rows: whether clients keep state.
      cohort: its K.
      shared: whether it has a global model.
    """

    recipe: Callable[[], Recipe]
    hyper: dict[str, float]
    weighted: bool = True
    rows: bool = False
    cohort: int = K
    shared: bool = True


def sgd(lr):
    return optax.sgd(lr)


def heavy(lr, decay):
    return optax.sgd(lr, momentum=decay)


_LOCAL = {"lr": 0.3, "epochs": 2, "batch_size": 4}
_WEIGHTED = {"weighting": weights, **_LOCAL}
# The shuffle is one piece of code for all and half of a program's compile time.
_ORDERED = {"shuffle": False, **_WEIGHTED}
_GROUPS = [0, 1, 0, 2, 1, 2, 3, 3]

TABLE: dict[str, Case] = {
    "fedavg": Case(lambda: fedavg(sgd, **_WEIGHTED), {"lr": 0.1}),
    "fedprox": Case(
        lambda: fedprox(heavy, mu=0.5, decay=0.5, **_ORDERED), {"mu": 0.1, "decay": 0.2}
    ),
    "fedavgm": Case(lambda: fedavgm(sgd, **_ORDERED), {"server_momentum": 0.5}),
    "fedadam": Case(lambda: fedadam(sgd, **_ORDERED), {"server_rate": 0.1, "tau": 0.1}),
    "fedyogi": Case(lambda: fedyogi(sgd, **_ORDERED), {"b1": 0.5, "b2": 0.9}),
    "fedadagrad": Case(lambda: fedadagrad(sgd, **_ORDERED), {"server_rate": 0.3, "initial": 0.1}),
    "fednova": Case(
        lambda: fednova(lambda lr: optax.sgd(lr, momentum=0.5), momentum=0.5, **_ORDERED),
        {"lr": 0.1},
    ),
    "scaffold": Case(lambda: scaffold(sgd, **_WEIGHTED), {"server_rate": 0.5}, rows=True),
    "fedsgd": Case(lambda: fedsgd(heavy, lr=0.3, decay=0.5, weighting=weights), {"decay": 0.9}),
    "median": Case(lambda: median(sgd, shuffle=False, **_LOCAL), {"lr": 0.1}, weighted=False),
    # Thresholds that softmax regression meets: rounds perturb, curvature steps are taken.
    "perturbed": Case(
        lambda: perturbed(sgd, radius=0.1, threshold=3.0, wait=1.0, **_ORDERED),
        {"radius": 0.3, "wait": 2.0},
    ),
    "negative_curvature": Case(
        lambda: negative_curvature(sgd, lr=0.3, threshold=1.0, weighting=weights), {"lr": 0.1}
    ),
    "qfedavg": Case(lambda: qfedavg(sgd, q=2.0, rate=0.3, **_ORDERED), {"q": 0.5}),
    "term": Case(lambda: term(sgd, t=1.0, **_ORDERED), {"t": 3.0}),
    # Shares reach 0, so that some clients have no part in some rounds.
    "afl": Case(
        lambda: afl(sgd, groups=_GROUPS, lambda_rate=1.0, **_ORDERED), {"lambda_rate": 2.0}
    ),
    "fedmgda": Case(
        lambda: fedmgda(sgd, epsilon=0.2, server=optax.sgd(0.3), **_ORDERED), {"epsilon": 0.05}
    ),
    # Loose criteria, so that groups split and absent members are asked later.
    "cfl": Case(
        lambda: cfl(sgd, groups=4, eps1=3.0, eps2=0.3, gamma_max=0.1, norms="absolute", **_ORDERED),
        {"eps1": 0.5, "lr": 0.1},
        shared=False,
    ),
    "fedem": Case(lambda: fedem(sgd, groups=2, **_ORDERED), {"lr": 0.1}, rows=True, shared=False),
    "ifca": Case(
        lambda: ifca(sgd, groups=3, server=optax.sgd(0.5, momentum=0.5), **_ORDERED),
        {"lr": 0.1},
        rows=True,
        shared=False,
    ),
    "ifca_gradient": Case(
        lambda: ifca_gradient(sgd, lr=0.3, groups=3, start="perturbed", weighting=weights),
        {"lr": 0.1, "spread": 0.3},
        rows=True,
        shared=False,
    ),
    "hypcluster": Case(
        lambda: hypcluster(sgd, groups=3, warmup=2, **_ORDERED),
        {"lr": 0.1},
        rows=True,
        shared=False,
    ),
    # Groups are formed in the second round, and late clients join them.
    "grouped": Case(
        lambda: grouped(sgd, groups=2, warmup=2, every=3, sketch=32, separation=-1, **_ORDERED),
        {"lr": 0.1},
        shared=False,
    ),
    "hierfavg": Case(lambda: hierfavg(sgd, edges=3, edge_rounds=2, **_ORDERED), {"lr": 0.1}),
    "centralized": Case(
        lambda: centralized(heavy, decay=0.5, **_LOCAL), {"lr": 0.1}, weighted=False, cohort=1
    ),
    "local_only": Case(
        lambda: local_only(heavy, decay=0.5, **_LOCAL),
        {"lr": 0.1},
        weighted=False,
        rows=True,
        shared=False,
    ),
}
NAMES = tuple(TABLE)


def told(k: int, n: int) -> Sampler:
    """A sampler whose state is the `Member` table `[K]` to use: cohorts without compiling."""

    def init(population):
        del population
        ids = jnp.arange(k, dtype=jnp.int32) % n
        return Member(ids, jnp.ones(k, bool), jnp.zeros_like(ids), jnp.ones(k))

    return Sampler(
        k, init, lambda key, state, r: (state, Cohort(r, state)), lambda state, cohort, info: state
    )


def members(case: Case, seed: int, **fields: Any) -> Member:
    """A random `Member` table: distinct ids, some absent, some partial."""
    rng = np.random.default_rng(seed)
    k = case.cohort
    ids = rng.permutation(N)[:k]
    present = rng.random(k) < 0.7
    present[0] = True
    work = np.where(rng.random(k) < 0.4, rng.uniform(0.2, 1.0, k), 1.0)
    table = {"id": ids, "present": present, "lag": np.zeros(k), "work": work} | fields
    kinds = {"id": jnp.int32, "present": bool, "lag": jnp.int32, "work": float}
    return Member(**{n: jnp.asarray(v, kinds[n]) for n, v in table.items()})


class Bound:
    """An algorithm bound to a plan, with its one compiled program and a count of traces."""

    def __init__(self, name: str, plan: Plan, bits: int) -> None:
        self.case, self.traces = TABLE[name], []
        task = softmax_task(traces=self.traces)
        data = softmax_data(SIZES)
        self.run = Run.of(self.case.recipe(), task, data, told(self.case.cohort, N), plan)
        self.compiled = self.run.compiled(CHUNK)
        self._start = quick_jit(self.run.start) if plan == Plan() else bound(name, bits=bits)._start

    @property
    def data(self) -> DeviceShards:
        return self.run.data

    def start(self, table: Member, *, seed: int = 0, hyper: dict | None = None) -> Any:
        """The state before round 0, told whom to sample."""
        numbers = {n: jnp.asarray(v, float) for n, v in (self.run_hyper | (hyper or {})).items()}
        return self._start(jax.random.key(seed), numbers)._replace(sampler=table)

    @functools.cached_property
    def run_hyper(self) -> dict[str, Any]:
        return self.case.recipe().hyper

    def __call__(self, state: Any, rounds: int, *, seed: int = 0, data: Any = None) -> Any:
        return self.compiled(jax.random.key(seed), state, rounds, data)

    def learned(self, state: Any) -> Any:
        """What must agree between two runs: server state and rows."""
        return state.algorithm.server, state.rows


@functools.cache
def bound(name: str, lanes: int = 1, devices: int = 1, bits: int = 64) -> Bound:
    """One `Bound` a process for each algorithm, plan and precision."""
    assert jax.config.jax_enable_x64 == (bits == 64)
    return Bound(name, Plan(lanes, devices), bits)
