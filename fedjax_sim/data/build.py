"""From plain arrays and a partition to a `Federation`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedjax_sim.core.checks import InputError, choice, integer, number
from fedjax_sim.data.federated import Federation, Shards, check_labels, check_shards
from fedjax_sim.data.partition_base import Partition

_SPLIT = 0x5EED  # keeps the split's draws apart from the partition's


def from_arrays(
    x: Any,
    y: Any,
    partition: Partition,
    *,
    test: tuple[Any, Any] | None = None,
    seed: int = 0,
    test_fraction: float = 0.0,
    validation_fraction: float = 0.0,
    n_classes: int | None = None,
    dtype: str = "float32",
    name: str = "federation",
    meta: dict[str, Any] | None = None,
) -> Federation:
    """Deal examples to clients and split each client's examples.

    The same arguments give the same federation. A client of size n gives `floor(n f + u)`
    random examples to a split of fraction f, u uniform in [0, 1) and drawn per client, so that
    the overall share is right for small clients too; it always keeps one example to train on.
    Clients may have no test or validation examples.

    Args:
      x: inputs `[E, ...]`; floats become `dtype`, integers int32, bytes and booleans stay.
      y: targets `[E, ...]`, converted likewise.
      partition: who holds what.
      test: `(x [T, ...], y [T, ...])` held by nobody, for the central test.
      seed: of the partition and of the splits.
      test_fraction: share of each client's examples in `Federation.test`.
      validation_fraction: likewise for `Federation.validation`.
      n_classes: labels then lie in 0 .. n_classes-1; None takes the largest label plus one
        where y is one integer an example.
      dtype: `float32` or `float64`.
      name: for reports and pictures.
      meta: further facts to keep.

    Returns:
      A `Federation`; `meta` names the partition, its parameters and the seed.

    Raises:
      InputError: lengths that differ, NaN, labels out of range, a partition that needs more
        examples than there are.

    Example:
      >>> import numpy as np
      >>> from fedjax_sim.data.partition import iid
      >>> fed = from_arrays(np.eye(6), np.arange(6) % 2, iid(clients=3), test_fraction=0.5)
      >>> fed.train.sizes.tolist(), fed.test.sizes.tolist(), fed.n_classes
      ([1, 1, 1], [1, 1, 1], 2)
    """
    seed = integer("seed", seed, least=0)
    choice("dtype", dtype, ("float32", "float64"))
    for field, share in (("test", test_fraction), ("validation", validation_fraction)):
        number(f"{field}_fraction", share, least=0, below=1)
    if test_fraction + validation_fraction >= 1:
        total = test_fraction + validation_fraction
        raise InputError("test_fraction + validation_fraction", total, "must be less than 1")
    if not isinstance(partition, Partition):  # pyright: ignore[reportUnnecessaryIsInstance]
        remedy = "must be a Partition such as partition.iid(clients=100)"
        raise InputError("partition", partition, remedy)
    x, y = _pair("data", x, y, dtype)
    central = None if test is None else _central(test, x, y, dtype)
    n_classes = _classes(n_classes, y, central)
    order, sizes = partition.assign(y, len(x), np.random.default_rng(seed))
    rng = np.random.default_rng([seed, _SPLIT])
    parts = _split(order, sizes, (test_fraction, validation_fraction), rng)
    made = [_shards(x, y, *part) for part in parts]
    check_shards("data.train", made[0])
    facts: dict[str, Any] = {
        "partition": {"name": partition.name, **partition.params},
        "seed": seed,
    }
    if partition.names is not None:
        facts["client_names"] = partition.names
    if partition.group is not None:
        facts["group"] = partition.group
    return Federation(
        train=made[0],
        test=made[1] if test_fraction else None,
        validation=made[2] if validation_fraction else None,
        central_test=central,
        n_classes=n_classes,
        name=name,
        meta={**facts, **(meta or {})},
    )


def _converted(field: str, values: Any, dtype: str) -> np.ndarray:
    """Floats as `dtype`, wide integers as int32, bytes and booleans as they are."""
    array = np.asarray(values)
    if array.ndim == 0:
        raise InputError(field, values, "must be an array with one row an example")
    if array.dtype.kind == "f":
        limit = np.finfo(dtype).max
        if np.isfinite(array).all() and array.size and np.abs(array).max() > limit:
            raise InputError(field, float(np.abs(array).max()), f"is too large for {dtype}")
        return array.astype(dtype, copy=False)
    if array.dtype.kind in "iu":
        if array.dtype.itemsize == 1:
            return array
        bounds = np.iinfo(np.int32)
        if array.size and (array.min() < bounds.min or array.max() > bounds.max):
            raise InputError(field, int(np.abs(array).max()), "integers must fit into int32")
        return array.astype(np.int32, copy=False)
    if array.dtype.kind == "b":
        return array
    raise InputError(f"{field}.dtype", array.dtype, "must be numbers; encode names as integers")


def _pair(field: str, x: Any, y: Any, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Converted and checked `(x, y)`; one-byte labels become int32 too."""
    x, y = _converted(f"{field}.x", x, dtype), _converted(f"{field}.y", y, dtype)
    if y.dtype.kind in "iub":
        y = y.astype(np.int32, copy=False)
    if len(x) == 0:
        raise InputError(f"{field}.x", x.shape, "needs at least one example")
    everything = np.array([len(x)], np.int64)
    check_shards(field, Shards(x, y, np.zeros(1, np.int64), everything))
    return x, y


def _central(test: Any, x: np.ndarray, y: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(test, (tuple, list)) or len(test) != 2:
        raise InputError("test", type(test).__name__, "must be a pair (x, y)")
    central = _pair("test", test[0], test[1], dtype)
    for field, ours, theirs in (("test.x", central[0], x), ("test.y", central[1], y)):
        if ours.shape[1:] != theirs.shape[1:]:
            remedy = f"rows must have the training rows' shape {theirs.shape[1:]}"
            raise InputError(f"{field}.shape", ours.shape[1:], remedy)
    return central


def _classes(
    n_classes: int | None, y: np.ndarray, central: tuple[np.ndarray, np.ndarray] | None
) -> int | None:
    targets = [("data.y", y)] + ([] if central is None else [("test.y", central[1])])
    if n_classes is None:
        if y.dtype.kind not in "iu" or y.ndim != 1:
            return None
        n_classes = max(int(t.max()) for _, t in targets) + 1
    for field, target in targets:
        if target.dtype.kind not in "iu":
            raise InputError(f"{field}.dtype", target.dtype, "class labels must be integers")
        check_labels(field, target, n_classes)
    return n_classes


def _split(
    order: np.ndarray, sizes: np.ndarray, fractions: tuple[float, float], rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`(order, sizes)` of the training, test and validation examples."""
    if not any(fractions):
        return [(order, sizes), (order[:0], sizes * 0), (order[:0], sizes * 0)]
    client = np.repeat(np.arange(len(sizes)), sizes)
    shuffle = rng.permutation(len(order))
    shuffle = shuffle[np.argsort(client[shuffle], kind="stable")]
    slot = np.empty(len(order), np.int64)
    slot[shuffle] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    given, part = np.zeros_like(sizes), np.zeros(len(order), np.int64)
    for number_, fraction in enumerate(fractions, start=1):
        if fraction:
            wanted = np.floor(sizes * fraction + rng.random(len(sizes))).astype(np.int64)
            upto = np.minimum(given + wanted, sizes - 1)
            part[(slot >= given[client]) & (slot < upto[client])] = number_
            given = upto
    return [
        (order[part == p], np.bincount(client[part == p], minlength=len(sizes))) for p in range(3)
    ]


def _shards(x: np.ndarray, y: np.ndarray, order: np.ndarray, sizes: np.ndarray) -> Shards:
    return Shards(x[order], y[order], np.cumsum(sizes) - sizes, sizes.astype(np.int64))
