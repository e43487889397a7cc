"""Trained models on disk: safetensors for the numbers, JSON for the tree; nothing that runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Model, PyTree
from fedjax_sim.experiment import files
from fedjax_sim.experiment.files import GROUP

TENSORS = "model.safetensors"
TREE = "tree.json"


def save_model(folder: str | Path, model: Model, facts: dict[str, Any] | None = None) -> Path:
    """Write a model: arrays named `params/...` and `state/...`, and the tree around them.

    Args:
      folder: made where it is missing; a model in it is replaced.
      model: any tree of dicts, lists and tuples; other containers are written by the paths
        of their leaves, and come back as dicts unless `load` is given a task.
      facts: JSON-ready values to keep beside the tree.

    Returns:
      The folder.
    """
    folder = Path(folder)
    files.make_folder(folder)
    arrays: dict[str, np.ndarray] = {}
    tree = {part: _describe(getattr(model, part), part, arrays) for part in Model._fields}
    text = json.dumps({"format": 1, "tree": tree, "facts": facts or {}}, indent=1) + "\n"
    files.write_whole(folder / TENSORS, save(arrays))
    files.write_whole(folder / TREE, text)
    return folder


def save_groups(folder: str | Path, models: Model, facts: dict[str, Any] | None = None) -> Path:
    """Write M models, leaves `[M, ...]`, each into a folder: `group_0`, `group_1`, ..."""
    folder = Path(folder)
    models = jax.device_get(models)
    for m in range(jax.tree.leaves(models)[0].shape[0]):
        one = jax.tree.map(lambda leaf, m=m: leaf[m], models)
        save_model(folder / f"{GROUP}{m}", one, facts)
    return folder


def _describe(node: PyTree, path: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """JSON description of a node; its leaves go to `arrays` by their paths."""
    if node is None:
        return {"kind": "none"}
    if type(node) in (list, tuple):
        items = [_describe(v, f"{path}/{i}", arrays) for i, v in enumerate(node)]
        return {"kind": type(node).__name__, "items": items}
    if jax.tree_util.all_leaves([node]):
        return _describe_leaf(node, path, arrays)
    if type(node) is not dict:
        leaves = jax.tree_util.tree_flatten_with_path(node)[0]
        node = {jax.tree_util.keystr(p, simple=True, separator="/"): v for p, v in leaves}
    items = {str(k): _describe(v, f"{path}/{k}", arrays) for k, v in node.items()}
    return {"kind": "dict", "items": items}


def _describe_leaf(leaf: Any, path: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    is_key = jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key)
    value = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    arrays[path] = np.ascontiguousarray(value).reshape(value.shape)
    about = {"kind": "leaf", "name": path, "dtype": str(value.dtype), "shape": list(value.shape)}
    return about | ({"key": str(jax.random.key_impl(leaf))} if is_key else {})


def _rebuild(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> PyTree:
    kind = about["kind"]
    if kind == "none":
        return None
    if kind == "dict":
        return {k: _rebuild(v, arrays) for k, v in about["items"].items()}
    if kind in ("list", "tuple"):
        items = [_rebuild(v, arrays) for v in about["items"]]
        return tuple(items) if kind == "tuple" else items
    value = arrays[about["name"]]
    if list(value.shape) != about["shape"] or str(value.dtype) != about["dtype"]:
        raise InputError(TENSORS, about["name"], "is not what tree.json says")
    return (
        jax.random.wrap_key_data(jnp.asarray(value), impl=about["key"]) if "key" in about else value
    )


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model read back.

    Attributes:
      model: params and state, NumPy leaves.
      facts: what was kept beside it (algorithm, rounds, ...).
      task: what the model belongs to, or None where it is not known.
    """

    model: Model
    facts: dict[str, Any]
    task: Task | None = None

    @property
    def params(self) -> PyTree:
        """What was trained."""
        return self.model.params

    @property
    def state(self) -> PyTree:
        """Batch statistics and the like."""
        return self.model.state

    def predict(self, x: Any) -> np.ndarray:
        """Outputs `[n, ...]` for inputs `[n, ...]`."""
        if self.task is None:
            remedy = "is not known for this folder; use load(folder, task=...)"
            raise InputError("task", None, remedy)
        return predict_in_batches(self.task.predict, self.model, x)


def load(folder: str | Path, *, task: Any = None, group: int | None = None) -> Loaded:
    """Read a model that a run, or `Run.save`, wrote.

    Args:
      folder: a run directory, or one that holds `model.safetensors`.
      task: a `Task` (or a task that waits for a shape), to predict with and to rebuild
        containers of the model's own. Without it the task is rebuilt from the run
        directory's `config.toml` where that describes one.
      group: which of the models, where the algorithm has one for each group of clients.

    Raises:
      InputError: no model there, a damaged one, or one that does not fit the task.
    """
    folder = Path(folder)
    at = folder / files.FINAL if (folder / files.FINAL).is_dir() else folder
    at = _of_group(at, group)
    for name in (TENSORS, TREE):
        if not (at / name).is_file():
            remedy = f"holds no trained model: there is no {name}, nor {files.FINAL}/{name}"
            raise InputError("folder", str(folder), remedy)
    try:
        content = json.loads((at / TREE).read_bytes())
        arrays = load_file(at / TENSORS)
        parts = [_rebuild(content["tree"][part], arrays) for part in Model._fields]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("folder", str(at), f"holds a damaged model: {error}") from error
    facts = content["facts"]
    known = _task(task, facts) if task is not None else _task_of_config(folder, facts)
    model = Model(*parts)
    return Loaded(model if known is None else _fit(model, known), facts, known)


def _of_group(at: Path, group: int | None) -> Path:
    """The folder of a group's model; `at` itself where there is one model."""
    there = sorted(int(p.name[len(GROUP) :]) for p in at.glob(f"{GROUP}[0-9]*"))
    if not there and group is not None:
        raise InputError("group", group, f"{at} holds one model, not those of groups")
    if there and group not in there:
        raise InputError("group", group, f"must be from 0 to {there[-1]}, the groups in {at}")
    return at / f"{GROUP}{group}" if there else at


def _task(task: Any, facts: dict[str, Any]) -> Task:
    return task.bind(tuple(facts["x_shape"]), facts["x_dtype"]) if hasattr(task, "bind") else task


def _task_of_config(folder: Path, facts: dict[str, Any]) -> Task | None:
    """The task that `config.toml` describes, or None."""
    path = folder / files.CONFIG
    if not path.is_file() or "x_shape" not in facts:
        return None
    from fedjax_sim.experiment.build import task_from_config

    return task_from_config(path, x_shape=facts["x_shape"], x_dtype=facts["x_dtype"])


def _fit(model: Model, task: Task) -> Model:
    """The model in the containers of the task's own, shapes checked."""
    like = jax.eval_shape(task.init, jax.random.key(0))
    wanted, have = _by_path(like), _by_path(model)
    remedy = "does not belong to this model"
    if wanted.keys() != have.keys():
        odd = sorted(wanted.keys() ^ have.keys())[0]
        raise InputError("task", odd, f"{remedy}: only one of the two has it")
    for name, leaf in wanted.items():
        if leaf.shape != have[name].shape:
            found = list(have[name].shape)
            raise InputError("task", name, f"{remedy}: {list(leaf.shape)} against {found}")
    return jax.tree.unflatten(jax.tree.structure(like), [have[n] for n in wanted])


def _by_path(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): v for p, v in leaves}


def predict_in_batches(
    predict: Callable[..., Any], model: Model, x: Any, batch_size: int = 256
) -> np.ndarray:
    """Outputs `[n, ...]`, computed in batches of one shape, so that one compile is enough."""
    x = np.asarray(x)
    if x.ndim == 0 or len(x) == 0:
        raise InputError("x", x.shape, "needs at least one example along the first axis")
    size = min(batch_size, len(x))
    run, out = jax.jit(predict), []
    for start in range(0, len(x), size):
        part = x[start : start + size]
        filler = np.repeat(part[-1:], size - len(part), axis=0)
        out.append(np.asarray(run(model, np.concatenate([part, filler])))[: len(part)])
    return np.concatenate(out)
