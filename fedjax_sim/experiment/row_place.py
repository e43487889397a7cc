"""Where client rows lie, by rule."""

from __future__ import annotations

import os

import jax

from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import PyTree
from fedjax_sim.engine import plan as plans
from fedjax_sim.experiment.policy import RESTORE
from fedjax_sim.experiment.settings import AUTO, DEVICE, DISK, HOST, Settings

_DEVICE_SHARE = 0.25  # of a device's memory that rows may take before they go to the host
_HOST_SHARE = 0.5  # of the host's memory, before they go to disk
_POOL_BYTES = 256 * 2**20  # of a dispatch's rows, above which it has fewer rounds


def has_rows(row: PyTree) -> bool:
    """Whether clients have a state at all."""
    return bool(jax.tree.leaves(row))


def place_rows(settings: Settings, row: PyTree, n_clients: int, cohort: int, devices: int) -> str:
    """`device`, `host` or `disk` for what `settings.client_state` asks.

    Args:
      settings: of the run.
      row: shapes of one client's leaves.
      n_clients: N.
      cohort: K.
      devices: D.

    Raises:
      InputError: rows off the device with what needs them there.
    """
    asked, restores = settings.client_state, settings.policy.on_trouble == RESTORE
    if not has_rows(row) or asked == DEVICE or (asked == AUTO and restores):
        return DEVICE
    if restores:
        remedy = 'keeps one state only: take "device", or another policy.on_trouble than restore'
        raise InputError("client_state", asked, remedy)
    if asked != AUTO:
        return asked
    each = tree.n_bytes(row)
    parts = 1 if jax.default_backend() == "cpu" else devices  # of the machine's memory, all of it
    if n_clients * each <= parts * _DEVICE_SHARE * plans.memory_bytes():
        return DEVICE
    most = min(n_clients, settings.rounds * cohort) * each
    return HOST if most <= _HOST_SHARE * host_bytes() else DISK


def hold_here(settings: Settings) -> str:
    """`device`, for what runs with all rows there.

    Raises:
      InputError: the settings ask for another place.
    """
    if settings.client_state not in (AUTO, DEVICE):
        remedy = 'must be "device" or "auto" here: only a run of its own has rows elsewhere'
        raise InputError("client_state", settings.client_state, remedy)
    return DEVICE


def rounds_at_most(row: PyTree, cohort: int) -> int:
    """Rounds of a dispatch whose rows still make a pool of a moderate size."""
    return max(1, _POOL_BYTES // max(cohort * tree.n_bytes(row), 1))


def host_bytes() -> int:
    """Memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
