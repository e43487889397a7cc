"""Diagnosis as a run uses it: what is watched inside the program, and the verdict at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from fedjax_sim.core.contracts import Task, Watch
from fedjax_sim.core.types import Array, Model, Moment, PyTree
from fedjax_sim.data.federated import Federation
from fedjax_sim.diagnostics import watch as watching

from fedjax_sim.engine.bind import Panel
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import RunState
from fedjax_sim.experiment.settings import Settings

import importlib.util  # TEMPORARY

_HAVE_DRIFT = importlib.util.find_spec("fedjax_sim.diagnostics.drift") is not None
_HAVE_VERDICT = importlib.util.find_spec("fedjax_sim.experiment.verdict_file") is not None
VERDICT, DRIFT = "verdict", "drift"


def groups_of(federation: Federation, given: Any = None) -> np.ndarray | None:
    """Each client's group, int `[N]`: the given ones, else those planted in the data, else None."""
    planted = federation.meta.get("group") if given is None else given
    return None if planted is None else np.asarray(planted)


def panel_of(settings: Settings, groups: np.ndarray | None) -> Panel | None:
    """The drift panel that a run's rounds are wrapped with, or None."""
    if not settings.diagnosis.drift_every or not _HAVE_DRIFT:
        return None
    from fedjax_sim.diagnostics.drift import drift_panel

    return drift_panel(every=settings.diagnosis.drift_every, groups=groups)


def watch_of(
    settings: Settings, task: Task, plan: Plan, mesh: Mesh, groups: np.ndarray | None
) -> Watch | None:
    """Everything that is watched, as one `Watch` whose state is a dict, or None."""
    watches: dict[str, Watch] = {}
    if settings.diagnosis.verdict:
        watches[VERDICT] = watching.watch(groups)
    if settings.diagnosis.drift_every and _HAVE_DRIFT:
        from fedjax_sim.diagnostics.drift import drift_watch

        watches[DRIFT] = drift_watch(task, plan, mesh, every=settings.diagnosis.drift_every)
    return together(watches) if watches else None


def together(watches: Mapping[str, Watch]) -> Watch:
    """Several watches as one; its state is a dict of theirs."""

    def init(model: Model | None, n_clients: int) -> dict[str, PyTree]:
        return {name: w.init(model, n_clients) for name, w in watches.items()}

    def observe(
        state: dict[str, PyTree], moment: Moment
    ) -> tuple[dict[str, PyTree], dict[str, Array]]:
        after: dict[str, PyTree] = {}
        scalars: dict[str, Array] = {}
        for name, w in watches.items():
            after[name], seen = w.observe(state[name], moment)
            scalars |= seen
        return after, scalars

    return Watch(init, observe)


def judge(state: RunState) -> str:
    """The name of the verdict on what a run's watch has seen so far."""
    from fedjax_sim.diagnostics.verdict import verdict

    return verdict(watching.series_of(state.watch[VERDICT])).name


def of_groups(state: RunState) -> list[dict[str, Any]]:
    """The verdict on each group's training loss, in order."""
    from fedjax_sim.diagnostics.verdict import verdict

    found = watching.group_series_of(state.watch[VERDICT])
    return [verdict(series).as_dict() for series in found]


def of_records(
    records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The verdict on a run's records, JSON-ready."""
    if not _HAVE_VERDICT:
        return {}
    from fedjax_sim.experiment.verdict_file import verdict_of

    return verdict_of(records, facts=facts).as_dict()


def facts_of(prepared: Any) -> dict[str, Any]:
    """What is known of a run besides its course: numbers and sizes, for naming causes."""
    settings = prepared.settings
    numbers = {n: float(v) for n, v in prepared.hyper.items()}
    clients = prepared.federation.n_clients
    return numbers | {"algorithm": prepared.name, "cohort": settings.cohort, "clients": clients}
