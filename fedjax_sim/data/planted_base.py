"""What all planted federations share: who belongs where, and how a change is applied."""

from __future__ import annotations

import dataclasses
import itertools
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.data.federated import Federation, Shards, check_shards

_MEMBERS, _NOISE = 0x6209, 0x7015  # keep the draws of one seed apart


class Rows(NamedTuple):
    """Examples with the group of their client.

    Attributes:
      x: inputs `[E, ...]`.
      y: targets `[E, ...]`.
      group: int64 `[E]`.
    """

    x: np.ndarray
    y: np.ndarray
    group: np.ndarray


Change = Callable[[Rows, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""From examples to what their groups see of them: `(x, y)`, new arrays or the same."""


def checked(federation: Any, groups: Any, seed: Any) -> int:
    """M, refused where it is more than the clients; what is no federation or seed too."""
    integer("seed", seed, least=0)
    if not isinstance(federation, Federation):
        remedy = "must be a Federation such as data.digits()"
        raise InputError("federation", type(federation).__name__, remedy)
    groups = integer("groups", groups, least=1)
    if groups > federation.n_clients:
        raise InputError("groups", groups, f"must be at most the {federation.n_clients} clients")
    return groups


def membership(
    clients: int,
    groups: int,
    *,
    group: Sequence[int] | None = None,
    moves_at: Sequence[int] | None = None,
    movers: float = 0.25,
    seed: int = 0,
    purpose: int = 0,
) -> np.ndarray:
    """Each client's group in each stage; a stage ends where some clients change group.

    Before the rounds `moves_at`, `round(movers N)` random clients each go to a random other
    group.

    Args:
      clients: N.
      groups: M.
      group: int `[N]`, the first stage; None deals M groups equally large up to one.
      moves_at: T-1 rounds, counted from 0, each at least 1 and later than the one before.
      movers: share of clients that move, in (0, 1].
      seed: of the groups and moves.
      purpose: keeps two draws of one seed apart.

    Returns:
      int64 `[T, N]`.

    Raises:
      InputError: rounds that do not rise; one group; a share that rounds to no client.
    """
    rng = np.random.default_rng([integer("seed", seed, least=0), _MEMBERS, purpose])
    stages = [_first(clients, groups, group, rng)]
    for _ in _moves(moves_at, movers, clients, groups):
        after = stages[-1].copy()
        going = rng.permutation(clients)[: round(movers * clients)]
        after[going] = (after[going] + rng.integers(1, groups, len(going))) % groups
        stages.append(after)
    return np.stack(stages)


def _moves(moves_at: Sequence[int] | None, movers: float, clients: int, groups: int) -> list[int]:
    """The rounds before which clients move, checked."""
    if moves_at is None:
        return []
    rounds = sequence("moves_at", moves_at, "must be a list of rounds, such as [20, 40]")
    moves = [integer("moves_at", r, least=1) for r in rounds]
    if any(a >= b for a, b in itertools.pairwise(moves)):
        raise InputError("moves_at", moves, "must be rising rounds")
    number("movers", movers, above=0, most=1)
    if groups < 2 and moves:
        raise InputError("moves_at", moves, "needs at least 2 groups to move between")
    if moves and round(movers * clients) == 0:
        remedy = f"moves none of {clients} clients; must be greater than {0.5 / clients:g}"
        raise InputError("movers", movers, remedy)
    return moves


def sequence(field: str, value: Any, remedy: str) -> list[Any]:
    """`value` as a list of single things, refused where it is none."""
    try:
        found = list(value)
    except TypeError:
        raise InputError(field, value, remedy) from None
    if any(isinstance(v, Sequence) or getattr(v, "ndim", 0) for v in found):
        raise InputError(field, value, remedy)
    return found


def _first(
    clients: int, groups: int, given: Sequence[int] | None, rng: np.random.Generator
) -> np.ndarray:
    if given is None:
        return rng.permutation(np.arange(clients) % groups)
    group = np.asarray(given)
    if group.shape != (clients,) or group.dtype.kind not in "iu":
        remedy = f"must be {clients} whole numbers, one a client"
        raise InputError("group", f"{group.dtype} {group.shape}", remedy)
    if group.min() < 0 or group.max() >= groups:
        bad = int(group.min() if group.min() < 0 else group.max())
        raise InputError("group", bad, f"must lie in 0 .. {groups - 1}")
    return group.astype(np.int64)


def plant(
    federation: Federation,
    what: str,
    groups: int,
    change: Change,
    facts: dict[str, Any],
    *,
    group: Sequence[int] | None,
    moves_at: Sequence[int] | None,
    movers: float,
    seed: int,
) -> Federation:
    """A federation whose clients see `change` of their examples.

    Args:
      federation: the data; groups already planted in it are combined with the new ones.
      what: for the name: `rotated`.
      groups: M.
      change: what the groups see.
      facts: for `meta`.
      group: see `membership`, as are the others.
      moves_at: rounds before which clients change group.
      movers: share of clients that do.
      seed: of everything.

    Raises:
      InputError: a federation in which clients change group already.
    """
    if federation.train.stages is not None:
        raise InputError("federation", federation.name, "plant what changes over time last")
    members = membership(
        federation.n_clients, groups, group=group, moves_at=moves_at, movers=movers, seed=seed,
        purpose=zlib.crc32(what.encode()),
    )  # fmt: skip
    rounds = np.array([0, *(() if moves_at is None else moves_at)], np.int64)
    splits: dict[str, Any] = {}
    for number_, name in enumerate(("train", "test", "validation")):
        shards: Shards | None = getattr(federation, name)
        if shards is not None:
            key = [seed, _NOISE, number_]
            splits[name] = _changed(shards, members, rounds, change, key)
    joint = _joint(federation.meta.get("group"), members)
    meta = federation.meta | facts | {"group": joint[0]}
    if len(members) > 1:
        meta |= {"group_stages": joint, "moves_at": rounds[1:].tolist()}
    name = f"{federation.name}, {what} in {groups} groups"
    return dataclasses.replace(federation, **splits, central_test=None, name=name, meta=meta)


def _changed(
    shards: Shards, members: np.ndarray, rounds: np.ndarray, change: Change, key: list[int]
) -> Shards:
    """The change as each stage sees it, stage after stage; the same noise in all of them."""
    x, y = shards.in_order()
    sizes = shards.sizes
    offsets = np.cumsum(sizes) - sizes
    seen = [
        change(Rows(x, y, np.repeat(group, sizes)), np.random.default_rng(key)) for group in members
    ]
    if len(seen) == 1:
        made = Shards(*seen[0], offsets, sizes)
    else:
        x, y = (np.concatenate(arrays) for arrays in zip(*seen, strict=True))
        stages = offsets + int(sizes.sum()) * np.arange(len(seen))[:, None]
        made = Shards(x, y, offsets, sizes, stages, rounds)
    check_shards("planted", made, allow_empty=True)
    return made


def _joint(before: Any, members: np.ndarray) -> np.ndarray:
    """Groups `[T, N]` that are the combinations of old `[N]` and new ones `[T, N]`."""
    if before is None:
        return members
    old = np.broadcast_to(np.asarray(before, np.int64), members.shape)
    pairs = np.stack([old.ravel(), members.ravel()], axis=1)
    found = np.unique(pairs, axis=0, return_inverse=True)[1]
    return found.reshape(members.shape).astype(np.int64)


def image_shape(federation: Federation, given: Sequence[int] | None) -> tuple[int, int, int]:
    """`(H, W, C)` of the rows of x, given or found.

    Raises:
      InputError: rows of another length, or that are no square of one or three colours.
    """
    row = federation.train.x.shape[1:]
    length = math.prod(row)
    if given is not None:
        sides = sequence("shape", given, "must be [H, W] or [H, W, C]")
        shape = [integer("shape", side, least=1) for side in sides]
        if len(shape) not in (2, 3) or math.prod(shape) != length:
            remedy = f"must be [H, W] or [H, W, C] with {length} numbers, as x has in a row"
            raise InputError("shape", list(given), remedy)
        return shape[0], shape[1], shape[2] if len(shape) == 3 else 1
    if len(row) in (2, 3):
        return row[0], row[1], row[2] if len(row) == 3 else 1
    for colours in (1, 3):
        side = math.isqrt(length // colours)
        if len(row) == 1 and side * side * colours == length:
            return side, side, colours
    remedy = "rows are no square images; give shape = [H, W] or [H, W, C]"
    raise InputError("federation.train.x.shape", federation.train.x.shape, remedy)
