"""What kind of point is this? Not stationary, a local minimum, a saddle, or flat ground.

Three questions, each with a tolerance that has no unit:

- Stationary: the decrease that the best gradient step promises is below `stationary` times the
  loss's scale. The best step along -g goes `|g| / c`, with c the curvature along g (at least
  `curvature` times the largest), and no further than `reach`. A promise above that is tried:
  where no step along -g keeps it (a kink of a ReLU network), the point counts as stationary.
- A way down: a direction is negative when its curvature is below `-curvature` times the largest
  absolute one, and its effect over `reach` is beyond rounding. Ritz values are Rayleigh
  quotients, so the lowest found is never below the true lowest: a negative one is a proof.
- Where the Hessian has directions without curvature, the second order cannot decide; then the
  loss itself is looked at along such directions (`descent.search`).

Scales: of the loss, the larger of its value here and at a freshly drawn model (where both are 0,
what the largest curvature changes over a unit step); of distance (`reach`), the larger of the
lengths of this model's and of a fresh model's params (1 where both are 0).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Model
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.diagnostics import sentences_critical as sentences
from fedjax_sim.diagnostics.critical_answer import (
    FLAT,
    MINIMUM,
    NOT_STATIONARY,
    SADDLE,
    Bounded,
    Critical,
    Scales,
    Tolerances,
)
from fedjax_sim.diagnostics.curvature import Landscape, Vector, landscape
from fedjax_sim.diagnostics.descent import Walk, heights, rounding, search, walk
from fedjax_sim.diagnostics.lanczos import Krylov, block_lanczos, dense, random_block
from fedjax_sim.diagnostics.spectrum import spectrum_of
from fedjax_sim.engine.plan import Plan

_RANDOM_STARTS, _NULL_STARTS = 6, 4
_PROFILE = 24  # points of the picture's curve
_RESOLUTION = 0.01  # of the largest eigenvalue, below which an end need not be known relatively

OnStep = Callable[[str, int, int], None]
"""`(what is done, steps done, steps at most)`."""


def critical_point(
    task: Task,
    model: Model,
    data: Federation | Shards | DeviceShards,
    *,
    weighting: str = "examples",
    steps: int = 40,
    block: int = 8,
    tolerances: Tolerances = Tolerances(),  # noqa: B008 - frozen
    scale: float | None = None,
    batch_size: int = 256,
    plan: Plan | None = None,
    seed: int = 0,
    on_step: OnStep = lambda what, done, most: None,
) -> Critical:
    """Say what kind of point of the federated objective a model is.

    In float32 an eigenvalue is known to about 1e-7 of the largest (measured on a digits network
    of 55,210 parameters), and a change of the loss to about 1e-5 of the loss; call it under
    `jax.enable_x64(True)` with a model in float64 where that is too coarse.

    Args:
      task: gives the loss.
      model: the point.
      data: all clients' examples; of a federation, those it trains on.
      weighting: `examples` or `uniform`.
      steps: blocks of Lanczos at most; with `steps x block >= P` the whole spectrum is found.
      block: vectors a block.
      tolerances: when a number counts as zero.
      scale: of the loss, in place of the one described above.
      batch_size: examples a step.
      plan: lanes and devices.
      seed: of the first block, of directions looked along, and of the fresh model.
      on_step: told of progress.

    Returns:
      `Critical`.

    Raises:
      InputError: a loss that is not finite, or a basis that does not fit into memory.

    Cost: at most `steps x block` products (1 to 2 gradients each), a basis of as many vectors of
      8 P bytes, and where the second order is silent some 40 gradients.

    Example:
      >>> import jax.numpy as jnp
      >>> from fedjax_sim.data.federated import shards_from_index
      >>> from fedjax_sim.tasks.saddles import saddle, surface
      >>> task, nothing = surface(saddle(), [0.0, 0.0]), np.zeros((1, 2), np.float32)
      >>> data = shards_from_index(nothing, nothing, [np.array([0])])
      >>> critical_point(task, task.init(jax.random.key(0)), data).kind
      'saddle'
    """
    shards = data.train if isinstance(data, Federation) else data
    ground = landscape(
        task, model, shards, weighting=weighting, batch_size=batch_size, plan=plan, seed=seed
    )
    fresh = jax.jit(task.init)(jax.random.key(seed))
    return judge(
        ground,
        fresh=fresh,
        steps=steps,
        block=block,
        tolerances=tolerances,
        scale=scale,
        seed=seed,
        on_step=on_step,
    )


def judge(
    ground: Landscape,
    *,
    fresh: Model,
    steps: int,
    block: int,
    tolerances: Tolerances,
    scale: float | None = None,
    seed: int = 0,
    on_step: OnStep = lambda what, done, most: None,
) -> Critical:
    """As `critical_point`, on a landscape that is there already; see there."""
    integer("block", block, least=1)
    integer("steps", steps, least=1)
    if scale is not None:
        number("scale", scale, above=0)
    x = ground.point
    height, gradient = ground.slope(x)
    height, length = float(height), float(np.linalg.norm(gradient))
    if not np.isfinite(height) or not np.isfinite(length):
        remedy = "must have a finite loss and gradient: this model has diverged"
        raise InputError("model", height, remedy)
    krylov = _eigenvalues(ground, steps, block, tolerances, seed, on_step)
    scales = _scales(ground, fresh, height, krylov, tolerances, scale)
    along = float(gradient @ _times(ground, gradient, block)) / length**2 if length else 0.0
    step, promised = best_step(length, along, scales, tolerances)
    here, gained, down = (height, gradient), math.nan, None
    if promised > tolerances.stationary * scales.loss:
        down = _walk(ground, here, -gradient, along, 4 * step)
        gained = float(np.max(-down.changes))
    gain = promised if down is None else min(promised, gained)
    kind, degenerate, way = kind_of(gain, krylov, scales, tolerances), False, down
    on_step("looking along directions", 0, 0)
    if kind != NOT_STATIONARY or way is None:
        kind, degenerate, way = _way_down(ground, kind, krylov, scales, tolerances, here, seed)
    spectrum, distances = spectrum_of(krylov), way.step * np.linspace(-1.5, 1.5, _PROFILE)
    changes = heights(ground, x, way.direction, distances) - height
    negative, flat, _ = spectrum.signs(scales.zero)
    found = Critical(
        kind=kind,
        degenerate=degenerate,
        sentence="",
        loss=height,
        gradient_norm=length,
        promised=promised,
        gained=gained,
        gradient_curvature=along,
        low=Bounded(float(krylov.values[0]), float(krylov.errors[0])),
        high=Bounded(float(krylov.values[-1]), float(krylov.errors[-1])),
        negative=negative,
        flat=flat,
        walk=way,
        profile=np.stack([distances, changes]),
        scales=scales,
        spectrum=spectrum,
        tolerances=tolerances,
        parameters=len(x),
        products=krylov.products,
        measured=ground.measured,
        weighting=ground.weighting,
        epsilon=ground.epsilon,
        descent=ground.tree(way.direction),
    )
    return dataclasses.replace(found, sentence=sentences.sentence(found))


def _eigenvalues(
    ground: Landscape, steps: int, block: int, tolerances: Tolerances, seed: int, on_step: OnStep
) -> Krylov:
    """Both ends of the spectrum, or all of it where that is no more work."""
    x, n = ground.point, len(ground.point)
    what = "multiplying by the Hessian"

    def multiply(v: np.ndarray) -> np.ndarray:
        out = ground.products(x, v)
        if not np.isfinite(out).all():
            raise InputError("model", "NaN or infinity", "must have a finite Hessian")
        return out

    def told(krylov: Krylov) -> None:
        on_step(what, krylov.products // block, min(steps, -(-n // block)))

    def resolved(krylov: Krylov) -> bool:
        ends = krylov.values[[0, -1]]
        floor = _RESOLUTION * krylov.size
        wanted = tolerances.eigenvalue * np.maximum(np.abs(ends), floor)
        return bool((krylov.errors[[0, -1]] <= wanted).all())

    if n <= steps * block:
        return dense(multiply, n, block=block, on_step=told)
    first = random_block(block, n, seed)
    return block_lanczos(
        multiply, first, steps=steps, epsilon=ground.epsilon, done=resolved, on_step=told
    )


def _times(ground: Landscape, v: Vector, block: int) -> Vector:
    """H v, by a block of the shape that is compiled already."""
    rows = np.zeros((block, len(v)))
    length = np.linalg.norm(v)
    rows[0] = v / length
    return ground.products(ground.point, rows)[0] * length


def _scales(
    ground: Landscape,
    fresh: Model,
    height: float,
    krylov: Krylov,
    tolerances: Tolerances,
    given: float | None,
) -> Scales:
    x, start = ground.point, ground.move(fresh).point
    reach = max(float(np.linalg.norm(x)), float(np.linalg.norm(start))) or 1.0
    at_start = float(heights(ground, x, start - x, np.ones(1))[0])
    at_start = abs(at_start) if np.isfinite(at_start) else 0.0
    loss = given or max(abs(height), at_start) or krylov.size / 2 or 1.0
    visible = 2 * rounding(ground, height, loss) / reach**2
    noise = krylov.noise + 8 * ground.epsilon * krylov.size
    return Scales(loss, reach, krylov.size, max(tolerances.curvature * krylov.size, visible, noise))


def best_step(
    length: float, along: float, scales: Scales, tolerances: Tolerances
) -> tuple[float, float]:
    """`(distance, decrease)` of the best step against a gradient.

    The best step of the model `-length s + curvature s^2 / 2` with s at most the reach.

    Args:
      length: of the gradient.
      along: curvature along it.
      scales: of distance and curvature.
      tolerances: for the least curvature that is believed.
    """
    curvature = max(abs(along), tolerances.curvature * scales.curvature)
    step = min(length / curvature, scales.reach) if curvature > 0 else scales.reach
    return step, length * step - 0.5 * curvature * step**2


def kind_of(gain: float, krylov: Krylov, scales: Scales, tolerances: Tolerances) -> str:
    """The answer of first and second order alone; `flat` stands for a Hessian that vanishes.

    Args:
      gain: what the best gradient step gains.
      krylov: both ends of the spectrum.
      scales: what numbers are compared with.
      tolerances: when a number counts as zero.
    """
    if gain > tolerances.stationary * scales.loss:
        return NOT_STATIONARY
    if krylov.values[0] < -scales.zero:
        return SADDLE
    return FLAT if krylov.values[-1] <= scales.zero else MINIMUM


def _walk(
    ground: Landscape,
    here: tuple[float, Vector],
    direction: Vector,
    curvature: float,
    reach: float,
) -> Walk:
    height, gradient = here
    return walk(
        ground, direction, height=height, gradient=gradient, curvature=curvature, reach=reach
    )


def _way_down(
    ground: Landscape,
    kind: str,
    krylov: Krylov,
    scales: Scales,
    tolerances: Tolerances,
    here: tuple[float, Vector],
    seed: int,
) -> tuple[str, bool, Walk]:
    """The kind of a stationary point, once the loss itself was looked at, and the walk.

    The flag says whether the second order was silent.
    """
    way = _walk(ground, here, krylov.vector(0), float(krylov.values[0]), scales.reach)
    silent = krylov.values[0] - krylov.errors[0] <= scales.zero
    if kind == SADDLE or not silent:
        return kind, False, way
    curved = np.abs(krylov.values) > scales.zero
    lost, largest = search(
        ground,
        height=here[0],
        gradient=here[1],
        curved=krylov.rotation[:, curved].T @ krylov.basis,
        starts=_starts(krylov, curved, seed),
        reach=scales.reach / 2,
        scale=scales.loss,
        tolerance=tolerances.stationary,
    )
    if lost is not None:
        return SADDLE, True, lost
    if kind == FLAT and largest > 0:
        return MINIMUM, True, way
    return kind, True, way


def _starts(krylov: Krylov, curved: np.ndarray, seed: int) -> np.ndarray:
    """Ritz vectors without curvature, the flattest first, and random directions."""
    flat = [i for i in np.argsort(np.abs(krylov.values)) if not curved[i]][:_NULL_STARTS]
    null = krylov.rotation[:, flat].T @ krylov.basis
    n = krylov.basis.shape[1]
    draw = np.random.default_rng((seed, 1)).normal(size=(_RANDOM_STARTS, n))
    return np.concatenate([null, draw])
