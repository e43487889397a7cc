"""`summary.json`: what a run came to, in one object."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import sys
from typing import Any

import jax

from fedjax_sim.experiment import diagnosis
from fedjax_sim.experiment.direction import better
from fedjax_sim.experiment.policy import Course
from fedjax_sim.experiment.prepare import Prepared
from fedjax_sim.experiment.records import Record

_NOT_MEASURED = {"round", "wall_time_s", "nonfinite"}


def summarize(
    prepared: Prepared,
    records: list[Record],
    *,
    status: str,
    totals: dict[str, Any],
    compile_seconds: float,
    facts: dict[str, Any],
    good_rounds: int | None = None,
    course: Course | None = None,
) -> dict[str, Any]:
    """What `summary.json` holds.

    Args:
      prepared: the run.
      records: all of its rounds.
      status: `done`, `stopped` by a policy, or `diverged`.
      totals: `seconds`, `client_steps`, `lane_steps`, `lane_steps_bound` of the whole run.
      compile_seconds: of this process.
      facts: JSON-ready values of the caller's, kept under `facts`.
      good_rounds: rounds done in the model that is kept, where a later one was not finite.
      course: what a policy did.
    """
    seconds, steps = totals["seconds"], totals["client_steps"]
    summary: dict[str, Any] = {
        "status": status,
        "algorithm": prepared.name,
        "federation": prepared.federation.name,
        "seed": prepared.settings.seed,
        "rounds": len(records),
        "cohort": prepared.settings.cohort,
        "clients": prepared.federation.n_clients,
        "final": final_metrics(records),
        "best": best_metrics(records),
        "seconds": seconds,
        "compile_seconds": compile_seconds,
        "client_steps": steps,
        "plan": {n: getattr(prepared.settings, n) for n in ("lanes", "devices", "chunk")},
        "versions": versions(),
    }
    if seconds > 0:
        summary["steps_per_second"] = steps / seconds
        summary["rounds_per_second"] = len(records) / seconds
    if totals["lane_steps"]:
        summary["lane_efficiency"] = steps / totals["lane_steps"]
        summary["lane_efficiency_bound"] = steps / max(totals["lane_steps_bound"], 1)
    if good_rounds is not None:
        summary["good_rounds"] = good_rounds
    if course is not None:
        summary["policy"] = {"cuts": course.cuts, "events": list(course.events)}
    if prepared.settings.diagnosis.verdict and records:
        found = diagnosis.of_records(records, diagnosis.facts_of(prepared, records))
        summary |= {"verdict": found} if found else {}
    if records and "virtual_time_s" in records[-1]:
        summary["virtual_seconds"] = records[-1]["virtual_time_s"]
    for name in ("uplink_bytes", "downlink_bytes"):
        if records and name in records[0]:
            summary[f"total_{name}"] = sum(r[name] for r in records)
    return summary | peak_memory() | ({"facts": facts} if facts else {})


def final_metrics(records: list[Record]) -> dict[str, Any]:
    """The last value of every metric."""
    final: dict[str, Any] = {}
    for record in records:
        final |= {n: v for n, v in record.items() if n not in _NOT_MEASURED}
    return final


def best_metrics(records: list[Record]) -> dict[str, dict[str, Any]]:
    """The best value of every accuracy and loss, and its round."""
    best: dict[str, dict[str, Any]] = {}
    for record in records:
        for name, value in record.items():
            sign = better(name)
            if sign == 0 or value is None or not math.isfinite(value):
                continue
            if name not in best or sign * value > sign * best[name]["value"]:
                best[name] = {"value": value, "round": record["round"]}
    return best


def peak_memory() -> dict[str, int]:
    """The largest resident size of this process, and of the device where it tells."""
    out: dict[str, int] = {}
    try:
        import resource
    except ImportError:  # no such counter on Windows
        return out
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out["peak_memory_bytes"] = peak if sys.platform == "darwin" else peak * 1024
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        out["peak_device_bytes"] = stats["peak_bytes_in_use"]
    return out


def versions() -> dict[str, str]:
    """Versions of what computed the run."""
    out = {"python": platform.python_version()}
    for name in ("jax", "jaxlib", "numpy", "flax", "optax", "fedjax-sim"):
        try:
            out[name.replace("-", "_")] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "fedjax-sim":
                from fedjax_sim import __version__

                out["fedjax_sim"] = __version__
    return out
