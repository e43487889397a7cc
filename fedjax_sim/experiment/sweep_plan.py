"""How a sweep uses the machine: devices, settings at once, blocks on a device."""

from __future__ import annotations

import dataclasses

import jax

from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import PyTree
from fedjax_sim.engine import plan as plans
from fedjax_sim.engine.simulate import RunState
from fedjax_sim.engine.sweep import INNER
from fedjax_sim.experiment.prepare import Prepared, choose_chunk

CHOICES = ("auto", *INNER, "probe")
# On a CPU the settings of a seed run together while their work fits the cache: measured, 610
# parameters with 25 lanes and 8 settings (1.5 MB) gain 3x, 55,210 with 4 settings (2.6 MB)
# lose 12 %.
_CACHE_BYTES = 2**21
_MOST_PARAMETERS = 20_000
# What the settings of a block share, in units of one setting's own work: 57 ms for one and
# 146 for eight, W1-lin.
_SHARED_WORK = 3.5
_SHARE_OF_MEMORY = 0.25
_WORK_COPIES = 3
_RECORDS = 24
_MOST_HELD = 4096
MOST_CHUNK = 1000


@dataclasses.dataclass(frozen=True)
class SweepPlan:
    """The plan of one group. Only `inner` and `width` touch the last bits of a result.

    Attributes:
      devices: that runs are dealt to.
      inner: see `engine.sweep.make_sweep`.
      width: h, settings of a seed that run at once.
      held: most blocks a device holds at a time.
    """

    devices: int
    inner: str
    width: int
    held: int


def check_inner(inner: str) -> None:
    """Refuse an unknown way to run a device's share."""
    if inner not in CHOICES:
        raise InputError("inner", inner, f"must be one of: {', '.join(CHOICES)}")


def choose(
    prepared: Prepared,
    state: RunState,
    *,
    seeds: int,
    settings: int,
    inner: str = "auto",
    devices: int | None = None,
    width: int | None = None,
) -> SweepPlan:
    """A plan by rule of thumb and memory; what is given is kept.

    On a CPU runs follow one another, the settings of a seed together where the model is
    tiny; on an accelerator all run at once that memory holds.

    Args:
      prepared: one run.
      state: shapes of its state.
      seeds: S.
      settings: of the group, H.
      inner: one of `CHOICES` but `probe`.
      devices: fixed by the user, or None for all that the runs can fill.
      width: of a sweep that goes on, or None.
    """
    at_hand = len(jax.devices())
    if devices is not None and not 1 <= devices <= at_hand:
        remedy = f"must lie in 1 .. {at_hand}, the devices that JAX sees here"
        raise InputError("plan.devices", devices, remedy)
    devices = min(devices or at_hand, seeds * settings)
    on_cpu = jax.default_backend() == "cpu"
    bytes_held, bytes_at_work = run_bytes(prepared, state)
    budget = _SHARE_OF_MEMORY * plans.memory_bytes() / (devices if on_cpu else 1)
    fit = max(1, int(budget // (bytes_held + bytes_at_work)))
    at_once = _CACHE_BYTES // max(bytes_at_work, 1) if on_cpu else fit
    if inner == "auto":
        small = tree.n_entries(_params(prepared)) <= _MOST_PARAMETERS
        inner = ("hyper" if small else "map") if on_cpu else "vmap"
    if width is None:
        widest = 1 if inner == "map" else max(1, min(settings, fit, max(at_once, 1)))
        width = _width(seeds, settings, devices, widest)
    blocks = -(-seeds * -(-settings // width) // devices)
    if inner == "vmap":
        held = max(1, min(blocks, fit // width))
        held = -(-blocks // -(-blocks // held))
    else:
        room = max(0.0, budget - width * bytes_at_work)
        held = max(1, min(blocks, int(room // (width * bytes_held)), _MOST_HELD))
    return SweepPlan(devices, inner, width, held)


def run_bytes(prepared: Prepared, state: RunState) -> tuple[int, int]:
    """Bytes that a run holds between dispatches, and those that it works in besides."""
    rounds = min(prepared.settings.rounds, MOST_CHUNK)
    held = 2 * tree.n_bytes(state) + 4 * _RECORDS * rounds
    return held, _WORK_COPIES * prepared.plan.lanes * tree.n_bytes(_params(prepared))


def _params(prepared: Prepared) -> PyTree:
    return jax.eval_shape(prepared.task.init, jax.random.key(0)).params


def _width(seeds: int, settings: int, devices: int, widest: int) -> int:
    """Settings a block, so that the busiest device ends first."""

    def busiest(parts: int) -> float:
        return -(-seeds * parts // devices) * (_SHARED_WORK + -(-settings // parts))

    least = -(-settings // widest)
    parts = min(range(least, settings + 1), key=lambda n: (busiest(n), n))
    return -(-settings // parts)


def first_rounds(prepared: Prepared) -> int:
    """Rounds of the very first dispatch, whose speed is not known: a second's worth at most."""
    model = jax.eval_shape(prepared.task.init, jax.random.key(0))
    settings = dataclasses.replace(prepared.settings, checkpoint_every=0)
    return choose_chunk(model, prepared.federation, prepared.sampler.size, settings)
