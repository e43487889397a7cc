"""Is there a way down? Heights along a line, and a search where the second order is silent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedjax_sim.diagnostics.curvature import Landscape, Vector

_AT_ONCE = 8  # heights a call, so that every call has the same shape
_HALVINGS = 16
_ROUNDING = 64.0  # units of rounding within which two heights count as equal
_ORDER = (1.5, 8.0)  # powers of the distance that a decrease of higher order may follow


class Walk(NamedTuple):
    """Heights along a direction that is taken to go down.

    Attributes:
      direction: `[P]`, of length 1.
      slope: derivative along it, never positive.
      curvature: second derivative along it.
      distances: `[2 k]`, negative ones backwards, ascending.
      changes: `[2 k]`, `f(x + distance direction) - f(x)`.
      step: the distance of the best step: the lowest point among those where the quadratic
        model is right within a factor of two, or, where it is nowhere, of all.
      predicted: the decrease that the quadratic model promises there.
      verified: the decrease that was found there.
    """

    direction: Vector
    slope: float
    curvature: float
    distances: np.ndarray
    changes: np.ndarray
    step: float
    predicted: float
    verified: float

    def model(self, distances: np.ndarray) -> np.ndarray:
        """The quadratic model's changes at these distances."""
        return self.slope * distances + 0.5 * self.curvature * distances**2


def heights(ground: Landscape, x: Vector, direction: Vector, distances: np.ndarray) -> np.ndarray:
    """The heights at x + each distance x direction, `[k]`, some at a time."""
    padded = -(-len(distances) // _AT_ONCE) * _AT_ONCE
    at = np.concatenate([distances, np.zeros(padded - len(distances))])
    parts = [ground.along(x, direction, part) for part in at.reshape(-1, _AT_ONCE)]
    return np.concatenate(parts)[: len(distances)]


def rounding(ground: Landscape, height: float, scale: float) -> float:
    """The change of f that may be rounding alone."""
    return _ROUNDING * ground.epsilon * max(abs(height), scale * 1e-3)


def walk(
    ground: Landscape,
    direction: Vector,
    *,
    height: float,
    gradient: Vector,
    curvature: float,
    reach: float,
) -> Walk:
    """Measure f along a direction, turned so that the slope does not go up.

    Args:
      ground: the landscape; the walk starts from its point.
      direction: `[P]`.
      height: f at the point.
      gradient: of f there.
      curvature: along the direction.
      reach: the longest distance; the others are halvings of it.

    Cost: 32 evaluations of f.
    """
    direction = direction / np.linalg.norm(direction)
    if gradient @ direction > 0:
        direction = -direction
    slope = float(gradient @ direction)
    forward = reach * 2.0 ** -np.arange(_HALVINGS)
    distances = np.concatenate([-forward, forward[::-1]])
    changes = heights(ground, ground.point, direction, distances) - height
    changes = np.where(np.isfinite(changes), changes, np.inf)
    ahead, down = distances[_HALVINGS:], -changes[_HALVINGS:]
    if not slope and np.min(changes[:_HALVINGS]) < np.min(changes[_HALVINGS:]):
        direction, changes = -direction, changes[::-1]
        down = -changes[_HALVINGS:]
    promised = -(slope * ahead + 0.5 * curvature * ahead**2)
    trusted = (promised > 0) & (down >= promised / 2) & (down <= 2 * promised)
    trusted = trusted if trusted.any() else np.ones_like(trusted)
    best = int(np.argmax(np.where(trusted, down, -np.inf)))
    return Walk(
        direction,
        slope,
        curvature,
        distances,
        changes,
        float(ahead[best]),
        float(promised[best]),
        float(down[best]),
    )


def search(
    ground: Landscape,
    *,
    height: float,
    gradient: Vector,
    curved: np.ndarray,
    starts: np.ndarray,
    reach: float,
    scale: float,
    tolerance: float,
    turns: int = 3,
) -> tuple[Walk | None, float]:
    """Look for a decrease of third or higher order among directions without curvature.

    From each start v, the direction is turned a few times towards `-(grad f(x + r v) - grad
    f(x))`, which for a form of third or fourth order is a step of the symmetric power method
    towards its lowest value. A decrease counts where it begins at the smallest distance at
    which f changes beyond rounding, follows a power between 1.5 and 8 of the distance over two
    halvings, and grows to `tolerance x scale`.

    Args:
      ground: the landscape; the search starts from its point.
      height: f at the point.
      gradient: of f there, small.
      curved: orthonormal rows `[k, P]`, directions with curvature, to be left out.
      starts: rows `[n, P]`.
      reach: the longest distance.
      scale: of the loss.
      tolerance: see above.
      turns: gradients a start.

    Returns:
      The walk of the largest decrease, or None; and the largest change of f, up or down, that
      was seen in any direction.

    Cost: `turns` gradients and 32 evaluations a start.
    """
    found, largest = None, 0.0
    least = rounding(ground, height, scale)
    for start in starts:
        v = _without(start, curved)
        for turn in range(turns + 1):
            if v is None:
                break
            here = walk(ground, v, height=height, gradient=gradient, curvature=0.0, reach=reach)
            largest = max(largest, _change(here, least))
            if _falls(here, least) and here.verified >= tolerance * scale:
                found = here if found is None or here.verified > found.verified else found
            if turn < turns:
                _, there = ground.slope(ground.point + 0.1 * reach * here.direction)
                v = _without(gradient - there, curved)
    return found, largest


def _without(v: Vector, curved: np.ndarray) -> Vector | None:
    """The part of v outside the curved directions, of length 1; None where none is left."""
    before = np.linalg.norm(v)
    for _ in range(2):
        v = v - (curved @ v) @ curved
    after = np.linalg.norm(v)
    if not np.isfinite(after) or after <= 1e-10 * before or after == 0:
        return None
    return v / after


def _change(here: Walk, least: float) -> float:
    """The largest change beyond the linear one and rounding, 0 where there is none."""
    beyond = np.abs(here.changes - here.slope * here.distances)
    beyond = beyond[np.isfinite(beyond)]
    return float(np.max(np.where(beyond > least, beyond, 0.0), initial=0.0))


def _falls(here: Walk, least: float) -> bool:
    """Whether f falls from the smallest visible distance on, faster than the slope says."""
    ahead = len(here.distances) // 2
    change = (here.changes - here.slope * here.distances)[ahead:]
    visible = np.flatnonzero(np.abs(change) > least)
    if len(visible) < 3 or visible[0] + 2 >= len(change):
        return False
    first = change[visible[0] : visible[0] + 3]
    if not (first < 0).all():
        return False
    powers = np.log2(first[1:] / first[:-1])
    return bool(((powers >= _ORDER[0]) & (powers <= _ORDER[1])).all())
