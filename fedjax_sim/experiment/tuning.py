"""A short timing of a few plans on the real round program, its answer kept on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import files
from fedjax_sim.experiment.cache_dir import default_cache
from fedjax_sim.experiment.dispatch import Dispatch
from fedjax_sim.experiment.prepare import Prepared
from fedjax_sim.experiment.settings import Settings

_LANES = (1, 4, 16, 64)
_SECONDS = 60.0  # no further plan is tried after that
_TIMED_S = 0.3  # a plan is timed for at least so long


class Timing(NamedTuple):
    """One plan's time.

    Attributes:
      lanes: on each device.
      devices: of the mesh.
      seconds: of one round, evaluation left out.
    """

    lanes: int
    devices: int
    seconds: float


class Tuned(NamedTuple):
    """A plan and where it comes from.

    Attributes:
      settings: with lanes and devices as numbers.
      timings: of every plan tried, fastest first.
      cached: whether they were read from disk.
      note: what a person should be told, or "".
    """

    settings: Settings
    timings: tuple[Timing, ...]
    cached: bool
    note: str


def tuned(ready: Callable[..., Prepared], settings: Settings) -> tuple[Settings, str]:
    """Settings with the fastest plan, and what to tell; see `tune`."""
    found = tune(lambda s: ready(settings=s), settings)
    best, origin = found.timings[0], "timed before" if found.cached else "timed now"
    told = f"plan: {best.lanes} lanes x {best.devices} devices, the fastest of "
    told += f"{len(found.timings)} ({origin}, {best.seconds * 1e3:.3g} ms a round)"
    return found.settings, "; ".join(filter(None, (told, found.note)))


def tune(prepare: Callable[[Settings], Prepared], settings: Settings) -> Tuned:
    """The fastest plan for `settings.lanes = "probe"`: from the cache, or timed now.

    Args:
      prepare: from settings to a run; called once a plan.
      settings: how the run is driven; devices that are given are kept.

    Cost: a compile and about a second a plan, at most some 60 s; nothing when cached.
    """
    first = prepare(dataclasses.replace(settings, lanes=1))
    dispatch = Dispatch(first, refuse=False)
    key = fingerprint(first, dispatch, settings.devices)
    timings, note = read(key)
    cached = bool(timings)
    if not timings:
        timings = _time_all(prepare, first, dispatch, settings)
        note = "; ".join(filter(None, (note, _write(key, timings))))
    best = timings[0]
    chosen = dataclasses.replace(settings, lanes=best.lanes, devices=best.devices)
    return Tuned(chosen, timings, cached, note)


def fingerprint(prepared: Prepared, dispatch: Dispatch, asked: int | None) -> str:
    """SHA-256 of the traced local step, the cohort, the clients' sizes, machine and jax.

    Args:
      prepared: the run.
      dispatch: its traced program.
      asked: devices that the user fixed, or None.
    """
    text = re.sub(r"0x[0-9a-f]+", "", str(dispatch.lane_shapes.step))
    sizes = np.ascontiguousarray(prepared.federation.train.sizes, np.int64)
    devices = jax.devices()
    facts = {
        "step": hashlib.sha256(text.encode()).hexdigest(),
        "sizes": hashlib.sha256(sizes.tobytes()).hexdigest(),
        "state": [[str(x.dtype), list(x.shape)] for x in jax.tree.leaves(dispatch.shapes)],
        "cohort": prepared.sampler.size,
        "devices": [len(devices), devices[0].device_kind, asked],
        "machine": [platform.machine(), platform.processor(), platform.node()],
        "jax": jax.__version__,
        "lowering": prepared.plan.lowering,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def known(prepared: Prepared, dispatch: Dispatch) -> tuple[Timing, ...]:
    """Timings of an earlier probe of the same work on this machine; empty where there are none."""
    for asked in (None, prepared.settings.devices):
        if found := read(fingerprint(prepared, dispatch, asked))[0]:
            return found
    return ()


def read(key: str) -> tuple[tuple[Timing, ...], str]:
    """Timings kept under `key`, fastest first, and a note where the file is damaged."""
    path = _path(key)
    try:
        found = json.loads(path.read_bytes())
        rows = [Timing(*row) for row in found["timings"]]
        if found["key"] != key or not rows or not all(_sound(row) for row in rows):
            raise ValueError("does not hold what it should")
    except (FileNotFoundError, NotADirectoryError):
        return (), ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return (), f"{path} is left aside, for it is damaged: {error}"
    return tuple(sorted(rows, key=lambda row: row.seconds)), ""


def _sound(row: Timing) -> bool:
    whole = all(type(n) is int and 1 <= n < 2**31 for n in row[:2])
    good = isinstance(row.seconds, float) and 0 < row.seconds < float("inf")
    return whole and good and row.devices <= len(jax.devices())


def _write(key: str, timings: tuple[Timing, ...]) -> str:
    """Keep timings; a note where the folder cannot be written."""
    path = _path(key)
    content = {"key": key, "date": time.strftime("%Y-%m-%d"), "timings": [*map(list, timings)]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        return f"the probe's answer is not kept: {path}: {error.strerror}"
    return ""


def _path(key: str) -> Path:
    return default_cache() / "plans" / f"{key}.json"


def _time_all(
    prepare: Callable[[Settings], Prepared],
    first: Prepared,
    dispatch: Dispatch,
    settings: Settings,
) -> tuple[Timing, ...]:
    """Time the candidates, the most likely first, fastest first in the answer."""
    begin, timings = time.perf_counter(), list[Timing]()
    for lanes, devices in candidates(first, settings):
        if timings and time.perf_counter() - begin > _SECONDS:
            break
        given = dataclasses.replace(settings, lanes=lanes, devices=devices)
        try:
            same = (lanes, devices) == (first.plan.lanes, first.plan.devices)
            program = dispatch if same else Dispatch(prepare(given))
        except InputError:
            if lanes == 1:
                raise
            continue  # this plan does not fit into memory
        timings.append(Timing(lanes, devices, seconds_a_round(program)))
    return tuple(sorted(timings, key=lambda row: row.seconds))


def candidates(prepared: Prepared, settings: Settings) -> list[tuple[int, int]]:
    """`(lanes, devices)` to try: few and many lanes on all devices, and one device alone."""
    most = prepared.plan.devices
    each = -(-prepared.sampler.size // most)
    lanes = sorted({min(n, each) for n in _LANES})
    plans = [(n, most) for n in lanes]
    if settings.devices is None and most > 1:
        plans.append((1, 1))
    return plans


def seconds_a_round(dispatch: Dispatch) -> float:
    """Seconds of one round of a program that is compiled here, after a warm-up."""
    dispatch.compile()
    state = dispatch.first_state()
    state, _ = dispatch(state, 1)
    rounds, took = 0, 0.0
    while took < _TIMED_S:
        start = time.perf_counter()
        state, _ = dispatch(state, 1)
        took += time.perf_counter() - start
        rounds += 1
    return took / rounds
