"""Checkpoints: the whole run state, written beside the old one and moved into place."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import PyTree
from fedjax_sim.experiment import files, manifest

_NAME = re.compile(r"round_(\d{6,})")
_STATE = "state"


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run stood, beside its arrays.

    Attributes:
      round: rounds done.
      metrics_bytes: length of `metrics.jsonl`.
      metrics_sha256: of those bytes.
      wall_time_s: training time so far.
      client_steps: local steps so far.
      lane_steps: lane steps so far, idle lanes included.
      lane_steps_bound: the fewest that any packing could have run.
      lanes: of the plan.
      devices: of the plan.
      chunk: rounds a dispatch.
      client_state: where client rows lay.
      course: what the run's policy knows, `policy.Course`; empty where none acts.
    """

    round: int
    metrics_bytes: int
    metrics_sha256: str
    wall_time_s: float
    client_steps: int
    lane_steps: int
    lane_steps_bound: int
    lanes: int
    devices: int
    chunk: int
    client_state: str = "device"
    course: dict[str, Any] = dataclasses.field(default_factory=dict)


def to_arrays(state: PyTree) -> dict[str, np.ndarray]:
    """Leaves of a tree as NumPy arrays under their numbered paths; keys as their raw words."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {f"{i:04d}{jax.tree_util.keystr(p)}": _raw(v) for i, (p, v) in enumerate(leaves)}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _key_kinds(state: PyTree) -> dict[str, str]:
    """Generator of every leaf that is a key, by its path."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(p): str(jax.random.key_impl(v)) for p, v in leaves if _is_key(v)}


def from_arrays(arrays: dict[str, np.ndarray], like: PyTree, kinds: dict[str, str]) -> PyTree:
    """Undo `to_arrays` for a tree of shapes `like`; refuses what does not fit.

    Args:
      arrays: `{path: array}`.
      like: structure, shapes and dtypes.
      kinds: generators of the leaves that are keys, by path.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [f"{i:04d}{jax.tree_util.keystr(p)}" for i, (p, _) in enumerate(leaves)]
    out = []
    for name, (at, wanted) in zip(names, leaves, strict=True):
        value = arrays.get(name)
        if value is None or len(arrays) != len(names):
            raise InputError("checkpoint", name, "the checkpoint holds another state")
        if _is_key(wanted):
            kind = kinds[jax.tree_util.keystr(at)]
            out.append(jax.random.wrap_key_data(jnp.asarray(value), impl=kind))
            continue
        if value.shape != wanted.shape or value.dtype != wanted.dtype:
            remedy = f"must be {wanted.dtype}{list(wanted.shape)}"
            raise InputError(f"checkpoint{name}", f"{value.dtype}{list(value.shape)}", remedy)
        out.append(value)
    return jax.tree.unflatten(structure, out)


def save(folder: Path, state: PyTree, position: Position, identity: str, *, keep: int) -> Path:
    """Write a checkpoint and, once it is durable, remove all but the newest `keep`.

    Args:
      folder: `checkpoints/` of the run.
      state: the whole `RunState`.
      position: where the run stands.
      identity: hash of the experiment; `restore` refuses another one.
      keep: at least 1.

    Cost: one copy of the state on the host and on the disk.
    """
    folder.mkdir(exist_ok=True)
    target = folder / f"round_{position.round:06d}"
    work = folder / f".tmp-{target.name}-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    arrays = to_arrays(state)
    _write(work / _STATE, {n: v for n, v in arrays.items() if v.size})
    facts = {
        "identity": identity,
        "position": dataclasses.asdict(position),
        "keys": _key_kinds(state),
        "empty": {n: [str(v.dtype), list(v.shape)] for n, v in arrays.items() if not v.size},
    }
    manifest.seal(work, facts)
    if target.exists():
        _remove(target)
    work.rename(target)
    files.sync(folder)
    for old in complete(folder)[:-keep]:
        _remove(old)
    return target


def _remove(folder: Path) -> None:
    """Remove so that a kill half way leaves no half folder under a valid name."""
    doomed = folder.with_name(f".tmp-old-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def complete(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name.removeprefix("round_")))


def clean(folder: Path) -> None:
    """Remove what a killed run left half done."""
    for left in folder.glob(".tmp-*"):
        shutil.rmtree(left)


def facts_of(path: Path) -> dict[str, Any]:
    """What a checkpoint's manifest says, every byte of the checkpoint verified."""
    return manifest.verify(path)


def newest(folder: Path, identity: str) -> tuple[Path, Position] | None:
    """The newest checkpoint, every byte verified, and its position; None without any.

    Raises:
      InputError: a damaged checkpoint, or one of another experiment.
    """
    at_hand = complete(folder)
    if not at_hand:
        return None
    facts = facts_of(at_hand[-1])
    if facts["identity"] != identity:
        remedy = (
            "belongs to another experiment: algorithm, task, data and settings must be the same"
        )
        raise InputError("checkpoint", str(at_hand[-1]), remedy)
    return at_hand[-1], Position(**facts["position"])


def restore(path: Path, like: PyTree) -> PyTree:
    """The state of a checkpoint as NumPy arrays in the structure of `like`."""
    facts = facts_of(path)
    arrays = _read(path / _STATE)
    for name, (dtype, shape) in facts["empty"].items():
        arrays[name] = np.empty(shape, dtype)
    return from_arrays(arrays, like, facts["keys"])


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp  # 0.4 s to import

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
        writer.save(path.absolute(), args=ocp.args.PyTreeSave(arrays))


def _read(path: Path) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        names = reader.metadata(path.absolute()).item_metadata.tree
        as_numpy = {n: ocp.RestoreArgs(restore_type=np.ndarray) for n in names}
        args = ocp.args.PyTreeRestore(restore_args=as_numpy)
        return reader.restore(path.absolute(), args=args)
