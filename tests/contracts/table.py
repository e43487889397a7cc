"""Every algorithm of every family, and what the laws need to run one."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from contracts import (
    cases_architectures,
    cases_averaging,
    cases_clustered,
    cases_control,
    cases_fair,
    cases_generic,
    cases_neighbours,
    cases_parts,
    cases_personal,
    cases_saddles,
    cases_widths,
)
from contracts.case import CHUNK, SILENT, SIZES, Case, N
from helpers import Run, quick_jit, softmax_data, softmax_task

from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Cohort, Member
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine.plan import Plan

__all__ = ["CHUNK", "NAMES", "SILENT", "SIZES", "TABLE", "N", "bound", "members", "told"]

TABLE: dict[str, Case] = (
    cases_averaging.CASES
    | cases_control.CASES
    | cases_generic.CASES
    | cases_saddles.CASES
    | cases_fair.CASES
    | cases_clustered.CASES
    | cases_parts.CASES
    | cases_personal.CASES
    | cases_neighbours.CASES
    | cases_architectures.CASES
    | cases_widths.CASES
)
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

    def start(
        self, table: Member, *, seed: int = 0, hyper: dict | None = None, jitted: bool = True
    ) -> Any:
        """The state before round 0, told whom to sample; not `jitted`, to look at shapes only."""
        numbers = {n: jnp.asarray(v, float) for n, v in (self.run_hyper | (hyper or {})).items()}
        begin = self._start if jitted else self.run.start
        return begin(jax.random.key(seed), numbers)._replace(sampler=table)

    @functools.cached_property
    def run_hyper(self) -> dict[str, Any]:
        return self.case.recipe().hyper

    def __call__(self, state: Any, rounds: int, *, seed: int = 0, data: Any = None) -> Any:
        return self.compiled(jax.random.key(seed), state, rounds, data)

    def learned(self, state: Any) -> Any:
        """What must agree between two runs: server state and rows."""
        return state.algorithm.server, state.rows


def bound(name: str, lanes: int = 1, devices: int = 1, bits: int = 64) -> Bound:
    """A `Bound` of an algorithm, plan and precision: those of one lane are kept, others lately.

    All plans of all algorithms hold more compiled programs than a process may map.
    """
    assert jax.config.jax_enable_x64 == (bits == 64)
    keep = _kept if (lanes, devices) == (1, 1) else _lately
    return keep(name, Plan(lanes, devices), bits)


_kept = functools.cache(Bound)
_lately = functools.lru_cache(maxsize=4)(Bound)
