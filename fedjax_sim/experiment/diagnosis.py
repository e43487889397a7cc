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
from fedjax_sim.diagnostics.drift import drift_panel, drift_watch
from fedjax_sim.diagnostics.groups_watch import final_groups, groups_watch
from fedjax_sim.diagnostics.series import Sketch
from fedjax_sim.diagnostics.verdict import Verdict, verdict
from fedjax_sim.engine.bind import Panel
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import RunState
from fedjax_sim.experiment.records import Record
from fedjax_sim.experiment.settings import Settings

VERDICT, DRIFT, GROUPS = "verdict", "drift", "groups"
_ASKED = 4  # clients of a cohort whose gradients the noise probe draws


def groups_of(federation: Federation, given: Any = None) -> np.ndarray | None:
    """Each client's group, int `[N]`: the given ones, else those planted in the data, else None."""
    planted = federation.meta.get("group") if given is None else given
    return None if planted is None else np.asarray(planted)


def truth_of(federation: Federation, given: Any = None) -> tuple[Any, Any]:
    """`(truth, starts)` for `groups_watch`: stage by stage where clients change group."""
    stages = federation.meta.get("group_stages") if given is None else None
    if stages is None:
        return groups_of(federation, given), None
    return np.asarray(stages), np.array([0, *federation.meta["moves_at"]])


def panel_of(settings: Settings, groups: np.ndarray | None) -> Panel | None:
    """The drift panel that a run's rounds are wrapped with, or None."""
    if not settings.diagnosis.drift_every:
        return None
    return drift_panel(every=settings.diagnosis.drift_every, groups=groups)


def watch_of(
    settings: Settings,
    task: Task,
    plan: Plan,
    mesh: Mesh,
    groups: np.ndarray | None,
    found: int = 0,
    truth: tuple[Any, Any] = (None, None),
) -> Watch | None:
    """Everything that is watched, as one `Watch` whose state is a dict, or None.

    Args:
      settings: what of it is wanted.
      task: what is learned.
      plan: lanes and devices.
      mesh: its devices.
      groups: int `[N]`, each client's true group, at first where it changes; or None.
      found: M where the algorithm itself sorts clients into groups: that is always watched.
      truth: of `truth_of`.
    """
    watches: dict[str, Watch] = {}
    if found:
        watches[GROUPS] = groups_watch(found, *truth)
    if settings.diagnosis.verdict:
        watches[VERDICT] = watching.watch(groups)
    if settings.diagnosis.drift_every:
        every, asked = settings.diagnosis.drift_every, _ASKED * settings.diagnosis.noise_scale
        watches[DRIFT] = drift_watch(task, plan, mesh, every=every, clients=asked)
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
    """The name of the verdict on what a run's watch has seen; empty before the first loss."""
    seen = watching.series_of(state.watch[VERDICT])
    return _of_sketches(seen).name if "train_loss" in seen else ""


def of_groups(state: RunState) -> list[dict[str, Any]]:
    """The verdict on each group's training loss, in order; none where there are no groups."""
    watched = state.watch.get(VERDICT) if state.watch else None
    found = [] if watched is None else watching.group_series_of(watched)
    return [_of_sketches(series).as_dict() for series in found]


def groups_found(state: RunState, prepared: Any) -> dict[str, Any]:
    """What the groups came to into which the algorithm sorted the clients; empty without any.

    Args:
      state: of the run's end.
      prepared: the run, `prepare.Prepared`.
    """
    watched = state.watch.get(GROUPS) if state.watch else None
    if watched is None:
        return {}
    recipe = prepared.recipe
    truth, starts = prepared.truth
    if starts is not None:
        truth = truth[max(int((starts < int(state.round)).sum()) - 1, 0)]
    return final_groups(watched, recipe.build(**recipe.hyper).groups, truth)


def _of_sketches(series: Mapping[str, Sketch]) -> Verdict:
    low = float(np.min(series["train_loss"].low))
    return verdict(series, floor=floor_of(low))


def floor_of(lowest: float) -> float | None:
    """The floor of a loss that never was below `lowest`.

    One that never was below 0 is taken to be one that cannot be, as cross entropy and squared
    errors are.
    """
    return 0.0 if lowest >= 0 else None


def of_records(records: Sequence[Record], facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The verdict on a run's records, JSON-ready; empty where no loss was recorded."""
    from fedjax_sim.experiment.verdict_file import verdict_of

    losses = [r["train_loss"] for r in records if r.get("train_loss") is not None]
    if not losses:
        return {}
    return verdict_of(records, floor=floor_of(min(losses)), facts=facts).as_dict()


def facts_of(prepared: Any, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is known of a run besides its course, for naming causes.

    Args:
      prepared: the run, `prepare.Prepared`.
      records: its rounds, from which the local steps of a client are read.

    Returns:
      `momentum`, `server_momentum`, `alpha`, `local_steps`, where they are known.
    """
    numbers, meta = prepared.hyper, prepared.federation.meta
    known = {
        "momentum": numbers.get("client_momentum", numbers.get("momentum")),
        "server_momentum": numbers.get("server_momentum"),
        "alpha": meta.get("alpha"),
    }
    facts = {n: float(v) for n, v in known.items() if v is not None}
    steps = sum(r.get("client_steps", 0) for r in records)
    members = sum(r.get("cohort_present", 0) for r in records)
    return facts | ({"local_steps": steps / members} if members else {})
