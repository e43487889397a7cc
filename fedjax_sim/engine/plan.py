"""The plan: how many lanes on how many devices. It changes speed only."""

from __future__ import annotations

import dataclasses
import os

import jax
import numpy as np

from fedjax_sim.core.checks import InputError, integer

# On a CPU, (parameters below, lanes), by `benchmarks/lanes.py`; 8 in the middle row lies between 5
# lanes, which were best at 17,210 parameters, and the row above. Its record is still to be made.
_CPU_LANES = ((10_000, 32), (20_000, 8))
_SHARE = 0.8  # of a device's memory that a chosen plan may fill


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where the cohort runs.

    Attributes:
      lanes: clients worked on at the same time on a device.
      devices: devices of the mesh.
      lowering: rewrite slow operations of the local step (`engine/lowering/`).
    """

    lanes: int = 1
    devices: int = 1
    lowering: bool = True

    def __post_init__(self) -> None:
        integer("plan.lanes", self.lanes, least=1)
        integer("plan.devices", self.devices, least=1)


def choose(
    n_parameters: int,
    cohort: int,
    *,
    lanes: int | None = None,
    devices: int | None = None,
    lowering: bool = True,
    lane_bytes: int | None = None,
    fixed_bytes: int = 0,
    skew: float = 1.0,
) -> Plan:
    """A plan by rule; what is given is kept.

    On a CPU every core is a device, and one lane a core is best unless the model is tiny
    (weights fall out of cache); on an accelerator as many lanes as the cohort has, within the
    memory that the forecast leaves.

    Args:
      n_parameters: P.
      cohort: K.
      lanes: fixed by the user, or None.
      devices: fixed by the user, or None for all that the cohort can fill.
      lowering: see `Plan`.
      lane_bytes: what one more lane holds on a device; by default a guess of 4 P floats.
      fixed_bytes: what a device holds besides its lanes.
      skew: the largest client's size over the mean (`skew_of`). On a CPU an idle lane costs what
        a busy one does, so there are no more lanes than the longest client leaves work for.
    """
    devices = devices or max(1, min(len(jax.devices()), cohort))
    each = -(-cohort // devices)
    if lanes is None:
        on_cpu = jax.default_backend() == "cpu"
        lanes = min(cpu_lanes(n_parameters), int(cohort / devices / skew)) if on_cpu else each
        left = _SHARE * memory_bytes() / (devices if on_cpu else 1) - fixed_bytes
        lanes = max(1, min(lanes, each, int(left / (lane_bytes or 16 * max(n_parameters, 1)))))
    return Plan(lanes, devices, lowering)


def skew_of(sizes: np.ndarray) -> float:
    """The largest of the clients' sizes `[N]` over their mean; 1 where all are equal."""
    return float(np.max(sizes) / max(float(np.mean(sizes)), 1e-9)) if np.size(sizes) else 1.0


def cpu_lanes(n_parameters: int) -> int:
    """Lanes a core by the measured table."""
    return next((few for most, few in _CPU_LANES if n_parameters < most), 1)


def memory_bytes() -> int:
    """Memory of one device: an accelerator's own, or all of the machine's for CPU devices."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def refuse_oversize(field: str, what: str, n_bytes: int, copies: int, remedy: str) -> None:
    """Refuse what cannot fit, with the figures.

    Args:
      field: the setting that makes it large.
      what: what would be held.
      n_bytes: one copy.
      copies: devices that hold a copy; CPU devices share the machine's memory.
      remedy: what to change.
    """
    total = n_bytes * (copies if jax.default_backend() == "cpu" else 1)
    if total > memory_bytes():
        figures = f"{total / 1e9:.1f} GB of {memory_bytes() / 1e9:.1f} GB"
        raise InputError(field, what, f"would hold {figures}; {remedy}")
