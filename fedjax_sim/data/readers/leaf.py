"""LEAF JSON: `{"users": [...], "num_samples": [...], "user_data": {user: {"x", "y"}}}`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.data.build import from_arrays
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.data.partition_sizes import natural


def read_leaf(path: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read one file, or all `*.json` of a folder.

    Args:
      path: a LEAF file with numeric x and y, or a folder of them.

    Returns:
      `{user: (x [n, ...], y [n, ...])}` in the files' order; users without examples left out.

    Raises:
      InputError: no file, no JSON, another layout, or counts that do not agree.
    """
    path = Path(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise InputError(str(path), "no *.json", "must be a LEAF file or a folder of them")
    held: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for file in files:
        for user, pair in _users(file).items():
            if user in held:
                raise InputError(f"{file}: user", user, "must occur in one file only")
            held[user] = pair
    return held


def _users(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(file), str(error), "must be a readable JSON file") from error
    keys = ("users", "num_samples", "user_data")
    if not isinstance(content, dict) or any(k not in content for k in keys):
        raise InputError(str(file), "other layout", f"LEAF JSON must hold {', '.join(keys)}")
    users, counts = content["users"], content["num_samples"]
    if len(users) != len(counts):
        raise InputError(f"{file}: num_samples", len(counts), f"must be {len(users)}, one a user")
    return {
        user: _pair(f"{file}: {user}", content["user_data"].get(user), count)
        for user, count in zip(users, counts, strict=True)
        if count
    }


def _pair(field: str, data: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(data, dict) or "x" not in data or "y" not in data:
        raise InputError(field, "other layout", "user_data must hold x and y for every user")
    try:
        x, y = np.asarray(data["x"], np.float64), np.asarray(data["y"], np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(field, str(error), "x and y must be numbers of one shape") from error
    if len(x) != count or len(y) != count:
        raise InputError(field, f"{len(x)} x, {len(y)} y", f"num_samples says {count}")
    whole = y.astype(np.int64)
    return x, whole if (whole == y).all() else y


def leaf(
    train: str,
    test: str | None = None,
    *,
    seed: int = 0,
    test_fraction: float = 0.0,
    n_classes: int | None = None,
) -> Federation:
    """A federation from LEAF files, whose users are the clients.

    Args:
      train: a LEAF file, or a folder of them.
      test: the same for the clients' test examples; users it lacks have none.
      seed: of the clients' splits.
      test_fraction: share of each client's examples to test on, where `test` is None.
      n_classes: as in `from_arrays`.

    Returns:
      A `Federation`; `meta["client_names"]` are the users, sorted.

    Raises:
      InputError: as `read_leaf`; users in `test` that are not in `train`.
    """
    if test is not None and test_fraction:
        raise InputError("test_fraction", test_fraction, "give test files or a fraction, not both")
    held = read_leaf(train)
    x, y = (np.concatenate([pair[i] for pair in held.values()]) for i in (0, 1))
    partition = natural(np.repeat(list(held), [len(pair[0]) for pair in held.values()]))
    settings: dict[str, Any] = {
        "seed": seed,
        "test_fraction": test_fraction,
        "name": Path(train).stem,
    }
    if test is None:
        return from_arrays(x, y, partition, n_classes=n_classes, **settings)
    other = read_leaf(test)
    strangers = sorted(set(other) - set(held))
    if strangers:
        raise InputError("test", strangers[0], "is a user that the training files do not have")
    assert partition.names is not None
    own = [other.get(str(u), (x[:0], y[:0])) for u in partition.names]
    pair = np.concatenate([p[0] for p in own]), np.concatenate([p[1] for p in own])
    fed = from_arrays(x, y, partition, test=pair, n_classes=n_classes, **settings)
    sizes = np.array([len(p[0]) for p in own], np.int64)
    assert fed.central_test is not None
    shards = Shards(*fed.central_test, np.cumsum(sizes) - sizes, sizes)
    return Federation(fed.train, shards, None, None, fed.n_classes, fed.name, fed.meta)
