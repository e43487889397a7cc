"""Federations with groups planted in them: `rotated`, `relabelled`, `feature_shifted`.

Each takes a federation and hands back one in which clients belong to hidden groups, so that
what a grouping finds can be held against the truth in `meta["group"]`. They compose: the groups
are then the combinations.

Example:
  >>> from fedjax_sim.data.bundled import digits
  >>> from fedjax_sim.data.partition_sizes import iid
  >>> fed = rotated(digits(iid(clients=6), test_fraction=0.2), groups=3)
  >>> fed.meta["angles"], sorted(fed.meta["group"].tolist())
  ([0.0, 120.0, 240.0], [0, 0, 1, 1, 2, 2])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedjax_sim.core.checks import InputError, choice, number
from fedjax_sim.data.federated import Federation
from fedjax_sim.data.planted_base import Rows, checked, image_shape, plant, sequence

_KINDS = ("affine", "noise", "contrast", "brightness")


def rotated(
    federation: Federation,
    groups: int = 4,
    *,
    angles: Sequence[float] | None = None,
    shape: Sequence[int] | None = None,
    group: Sequence[int] | None = None,
    moves_at: Sequence[int] | None = None,
    movers: float = 0.25,
    seed: int = 0,
) -> Federation:
    """Turn the images of each group's clients by its own angle.

    Multiples of 90 degrees move pixels and compute nothing; other angles interpolate linearly,
    with the darkest value where the turned image has no pixel.

    Args:
      federation: x rows are images `[H, W]`, `[H, W, C]`, or flat ones.
      groups: M.
      angles: degrees counterclockwise `[M]`; None is `360 g / M`.
      shape: `[H, W]` or `[H, W, C]` of flat rows; None finds squares of one or three colours.
      group: int `[N]` in 0 .. M-1, who belongs where; None draws groups equally large up to one.
      moves_at: rounds (counted from 0, rising) before which some clients change group; see
        `planted_base.membership`.
      movers: share of all clients that change group each time, in (0, 1].
      seed: of groups and moves.

    Returns:
      A `Federation` with `meta["group"]` int64 `[N]` and `meta["angles"]`. Test and validation
      examples of a client are turned like those it trains on; the central test is left out,
      for no single model of it is right. With `moves_at`, `meta["group_stages"]` is int64
      `[T, N]` and `meta["group"]` its first row.

    Raises:
      InputError: rows that are no images, an image that is not square for odd quarter turns.

    Reference: A. Ghosh et al., "An Efficient Framework for Clustered Federated Learning",
    2020, arXiv:2006.04088, section 6.2 (rotated MNIST).
    """
    groups = checked(federation, groups, seed)
    even = [360.0 * g / groups for g in range(groups)]
    remedy = f"must be a list of {groups} angles, one a group"
    turns = even if angles is None else sequence("angles", angles, remedy)
    number("angles", turns)
    if len(turns) != groups:
        raise InputError("angles", turns, f"must be {groups} angles, one a group")
    of_image = image_shape(federation, shape)
    dark = float(federation.train.x.min())

    def change(rows: Rows, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        del rng
        x = rows.x.copy()
        for g, angle in enumerate(turns):
            mine = rows.group == g
            images = x[mine].reshape(-1, *of_image)
            x[mine] = _turned(images, angle, dark).reshape(-1, *x.shape[1:])
        return x, rows.y

    return plant(
        federation, "rotated", groups, change, {"angles": [float(a) for a in turns]},
        group=group, moves_at=moves_at, movers=movers, seed=seed,
    )  # fmt: skip


def _turned(images: np.ndarray, angle: float, dark: float) -> np.ndarray:
    """Images `[n, H, W, C]` turned counterclockwise by `angle` degrees."""
    if not len(images) or angle % 360 == 0:
        return images
    if angle % 90 == 0:
        if images.shape[1] != images.shape[2] and angle % 180:
            remedy = "turns only square images; give multiples of 180"
            raise InputError("angles", angle, remedy)
        return np.rot90(images, int(angle // 90) % 4, axes=(1, 2))
    from scipy import ndimage

    return ndimage.rotate(images, angle, axes=(2, 1), reshape=False, order=1, cval=dark)


def relabelled(
    federation: Federation,
    groups: int = 3,
    *,
    pairs: int | None = None,
    group: Sequence[int] | None = None,
    moves_at: Sequence[int] | None = None,
    movers: float = 0.25,
    seed: int = 0,
) -> Federation:
    """Concept shift: each group calls the classes by other names.

    Without `pairs` no two groups agree on any class: group g calls class c
    `order[(place of c in order + g) mod C]`, `order` a random order of the classes. With
    `pairs` each group but the first swaps that many pairs of labels and no two groups swap the
    same pair. Group 0 keeps the labels.

    Args:
      federation: targets are classes.
      groups: M; at most C without `pairs`.
      pairs: pairs of labels that a group swaps, at most C / 2.
      group: see `rotated`, as are the others.
      moves_at: rounds before which some clients change group.
      movers: share of clients that change group each time.
      seed: of order, pairs, groups and moves.

    Returns:
      A `Federation` with `meta["group"]` int64 `[N]` and `meta["permutations"]`, a list `[M][C]`
      of what each group calls each class. The central test is left out.

    Raises:
      InputError: targets that are no classes, more groups than there are ways to disagree.

    Reference: F. Sattler, K.-R. Mueller, W. Samek, "Clustered Federated Learning:
    Model-Agnostic Distributed Multi-Task Optimization under Privacy Constraints", 2019,
    arXiv:1910.01991, section 6 (permuted and swapped labels).
    """
    groups = checked(federation, groups, seed)
    n_classes = federation.n_classes
    if n_classes is None:
        raise InputError("federation.n_classes", None, "relabelled needs targets that are classes")
    truth = _names(n_classes, groups, pairs, np.random.default_rng([seed, 1]))

    def change(rows: Rows, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        del rng
        of_row = rows.group.reshape(-1, *(1,) * (rows.y.ndim - 1))
        return rows.x, truth[of_row, rows.y].astype(rows.y.dtype)

    return plant(
        federation, "relabelled", groups, change, {"permutations": truth.tolist()},
        group=group, moves_at=moves_at, movers=movers, seed=seed,
    )  # fmt: skip


def _names(n_classes: int, groups: int, pairs: int | None, rng: np.random.Generator) -> np.ndarray:
    """What each group calls each class, int64 `[M, C]`."""
    order = rng.permutation(n_classes)
    if pairs is None:
        if groups > n_classes:
            remedy = f"at most {n_classes} groups can disagree on every class; give pairs"
            raise InputError("groups", groups, remedy)
        return order[(np.argsort(order) + np.arange(groups)[:, None]) % n_classes]
    number("pairs", pairs, least=1, most=n_classes // 2)
    blocks = [
        matching[start : start + pairs]
        for matching in _matchings(order)
        for start in range(0, len(matching) - pairs + 1, pairs)
    ]
    if groups - 1 > len(blocks):
        remedy = f"{n_classes} classes give {len(blocks) + 1} groups that swap {pairs} own pairs"
        raise InputError("groups", groups, remedy)
    truth = np.tile(np.arange(n_classes), (groups, 1))
    for names, block in zip(truth[1:], blocks, strict=False):
        names[block[:, 0]], names[block[:, 1]] = block[:, 1], block[:, 0]
    return truth


def _matchings(labels: np.ndarray) -> list[np.ndarray]:
    """All pairs of labels, as rounds of a tournament: disjoint pairs int `[n // 2, 2]` each."""
    ring = list(labels) if len(labels) % 2 == 0 else [*labels, -1]
    found: list[np.ndarray] = []
    for _ in range(len(ring) - 1):
        half = len(ring) // 2
        both = np.stack([ring[:half], ring[::-1][:half]], axis=1)
        found.append(both[(both >= 0).all(axis=1)])
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return found


def feature_shifted(
    federation: Federation,
    groups: int = 3,
    *,
    kind: str = "affine",
    strength: float = 1.0,
    group: Sequence[int] | None = None,
    moves_at: Sequence[int] | None = None,
    movers: float = 0.25,
    seed: int = 0,
) -> Federation:
    """Feature shift: the same things look different in each group; labels stay.

    With s = `strength`, h = g / (M - 1), m and d mean and standard deviation of all training
    inputs, and z standard normal, group g sees

    | kind | x becomes |
    |---|---|
    | `affine` | `exp(s z_gj / 2) x_j + s d z'_gj`, numbers of its own a feature j |
    | `noise` | `x + s h d z`, drawn anew for each number of each example |
    | `contrast` | `m + exp(-s h) (x - m)` |
    | `brightness` | `x + s h d` |

    Group 0 sees the data as they are.

    Args:
      federation: x holds floats.
      groups: M.
      kind: which of the above.
      strength: s, greater than 0.
      group: see `rotated`, as are the others.
      moves_at: rounds before which some clients change group.
      movers: share of clients that change group each time.
      seed: of numbers, noise, groups and moves.

    Returns:
      A `Federation` with `meta["group"]` int64 `[N]`. The central test is left out.

    Raises:
      InputError: inputs that are not floats.
    """
    groups = checked(federation, groups, seed)
    choice("kind", kind, _KINDS)
    number("strength", strength, above=0)
    x = federation.train.x
    if x.dtype.kind != "f":
        raise InputError("federation.train.x.dtype", x.dtype, "feature shift needs floats")
    middle, spread = float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))
    draw = np.random.default_rng([seed, 1])
    scale, offset = draw.standard_normal((2, groups, *x.shape[1:]))
    scale[0] = offset[0] = 0
    level = strength * np.arange(groups) / max(groups - 1, 1)

    def change(rows: Rows, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        own = level[rows.group].reshape(-1, *(1,) * (rows.x.ndim - 1))
        if kind == "affine":
            factor = np.exp(strength * scale[rows.group] / 2)
            new = factor * rows.x + strength * spread * offset[rows.group]
        elif kind == "noise":
            new = rows.x + own * spread * rng.standard_normal(rows.x.shape)
        elif kind == "contrast":
            new = middle + np.exp(-own) * (rows.x - middle)
        else:
            new = rows.x + own * spread
        new = np.where((rows.group == 0).reshape(own.shape), rows.x, new)
        return new.astype(rows.x.dtype), rows.y

    facts: dict[str, Any] = {"shift": {"kind": kind, "strength": float(strength)}}
    return plant(
        federation, f"shifted ({kind})", groups, change, facts,
        group=group, moves_at=moves_at, movers=movers, seed=seed,
    )  # fmt: skip
