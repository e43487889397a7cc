"""The plan: how many lanes on how many devices. It changes speed only."""

from __future__ import annotations

import dataclasses
import os

import jax

from fedjax_sim.core.checks import InputError, integer

# On a CPU, (parameters below, lanes). W1-lin (610) was measured; the middle row is a guess.
_CPU_LANES = ((2_000, 32), (20_000, 8))
_GPU_WORK_BYTES = 8 * 2**30


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where the cohort runs.

    Attributes:
      lanes: clients worked on at the same time on a device.
      devices: devices of the mesh.
      lowering: rewrite slow operations of the local step (`engine/lowering.py`).
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
) -> Plan:
    """A plan by rule of thumb; what is given is kept.

    On a CPU one lane a core is best unless the model is tiny (weights fall out of cache);
    on an accelerator as many lanes as the cohort has, within 8 GiB of work.

    Args:
      n_parameters: P.
      cohort: K.
      lanes: fixed by the user, or None.
      devices: fixed by the user, or None for all that the cohort can fill.
      lowering: see `Plan`.
    """
    devices = devices or max(1, min(len(jax.devices()), cohort))
    each = -(-cohort // devices)
    if lanes is None:
        if jax.default_backend() == "cpu":
            lanes = next((few for most, few in _CPU_LANES if n_parameters < most), 1)
        else:
            lanes = max(1, _GPU_WORK_BYTES // (16 * max(n_parameters, 1)))
        lanes = min(lanes, each)
    return Plan(lanes, devices, lowering)


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
