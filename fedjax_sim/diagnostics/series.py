"""A fixed-size sketch of a series of numbers, made inside a compiled loop or offline.

Every verdict is read off this sketch and off nothing else, so a run that is watched while it
trains and a file that is read years later are judged by the same evidence. A sketch has M bins.
Up to M points each has a bin of its own and the sketch is exact. When the bins are full,
neighbours are merged pairwise and a bin holds twice as many points from then on, so memory
stays O(M) for ever. A bin keeps what an average loses: the spread inside it, the squared steps
from point to point, and how often the series turned. The latest M/2 points are kept besides, as
they are: that is enough to tell noise from a short period in a run of a million rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Array

BINS = 256
"""Bins of a run's own series: what has at most this many rounds is kept exactly."""


class Sketch(NamedTuple):
    """What is kept of a series; leaves may have leading axes (runs, groups).

    Attributes:
      seen: int32 `()`, finite points so far.
      stride: int32 `()`, points that a full bin holds: a power of two.
      skipped: int32 `()`, points that were given and were not finite.
      broken: bool `()`, whether the latest point given was not finite.
      first: float `()`, the first finite point.
      last: float `()`, the latest.
      before: float `()`, the one before it.
      n: int32 `[M]`, points of each bin.
      mean: float `[M]`.
      spread: float `[M]`, sum of squared deviations from the bin's mean.
      steps: float `[M]`, sum of `(x_t - x_{t-1})^2`; a step belongs to its later point's bin.
      turns: int32 `[M]`, points at which the series turned, counted when the next one came.
      low: float `[M]`, least point of the bin; inf while it is empty.
      high: float `[M]`, greatest point; -inf while it is empty.
      latest: float `[M/2]`, the latest points; point t is at `t mod M/2`.
    """

    seen: Any
    stride: Any
    skipped: Any
    broken: Any
    first: Any
    last: Any
    before: Any
    n: Any
    mean: Any
    spread: Any
    steps: Any
    turns: Any
    low: Any
    high: Any
    latest: Any


def empty(bins: int = BINS) -> Sketch:
    """A sketch of nothing.

    Args:
      bins: M, even and at least 16.

    Returns:
      `Sketch` of strongly typed jax arrays in the default float.

    Raises:
      InputError: where M cannot be halved.

    Cost: 34 M bytes in float32.
    """
    if bins < 16 or bins % 2:
        raise InputError("bins", bins, "must be an even number of at least 16")
    real, count = jnp.zeros((bins,), float), jnp.zeros((bins,), jnp.int32)
    zero, none = jnp.zeros((), float), jnp.zeros((), jnp.int32)
    made = Sketch(
        seen=none,
        stride=none + 1,
        skipped=none,
        broken=jnp.zeros((), bool),
        first=zero,
        last=zero,
        before=zero,
        n=count,
        mean=real,
        spread=real,
        steps=real,
        turns=count,
        low=real + jnp.inf,
        high=real - jnp.inf,
        latest=real[: bins // 2],
    )
    return tree.strong(made)


def push(sketch: Sketch, value: Array, present: Array | bool = True) -> Sketch:
    """Add one point; pure, jittable, vmappable over leading axes.

    Args:
      sketch: so far.
      value: float `()`.
      present: bool `()`, False where nothing was measured: the sketch stays as it is.

    Returns:
      The new sketch. A value that is not finite is counted and leaves no other trace.

    Cost: O(M) elementwise work, no branch: a few microseconds.
    """
    value = jnp.asarray(value, sketch.last.dtype)
    given, finite = jnp.asarray(present, bool), jnp.isfinite(value)
    counts = given & finite
    x = jnp.where(counts, value, sketch.last)
    full = (sketch.seen // sketch.stride) >= sketch.n.shape[-1]
    room = _where(full, _halved(sketch), sketch)
    into = (jnp.arange(sketch.n.shape[-1]) == sketch.seen // room.stride) & counts
    folded = _folded(room, x, into)
    ring = sketch.latest.shape[-1]
    here = (jnp.arange(ring) == sketch.seen % ring) & counts
    return folded._replace(
        latest=jnp.where(here, x, sketch.latest),
        seen=sketch.seen + counts,
        skipped=sketch.skipped + (given & ~finite),
        broken=jnp.where(given, ~finite, sketch.broken),
        first=jnp.where(counts & (sketch.seen == 0), x, sketch.first),
        last=x,
        before=jnp.where(counts, sketch.last, sketch.before),
    )


def _where(condition: Array, a: Sketch, b: Sketch) -> Sketch:
    return Sketch(*(jnp.where(condition, x, y) for x, y in zip(a, b, strict=True)))


def _folded(s: Sketch, x: Array, into: Array) -> Sketch:
    """Point `x` put into the one bin where `into` [M] is True."""
    step = x - s.last
    turned = jnp.sign(step) * jnp.sign(s.last - s.before) < 0
    n = s.n + into
    off = x - s.mean
    mean = s.mean + jnp.where(into, off, 0) / jnp.maximum(n, 1)
    return s._replace(
        n=n,
        mean=mean,
        spread=s.spread + jnp.where(into, off * (x - mean), 0),
        steps=s.steps + jnp.where(into & (s.seen >= 1), step * step, 0),
        turns=s.turns + (into & (s.seen >= 2) & turned),
        low=jnp.where(into, jnp.minimum(s.low, x), s.low),
        high=jnp.where(into, jnp.maximum(s.high, x), s.high),
    )


def _halved(s: Sketch) -> Sketch:
    """Neighbouring bins merged; the upper half is empty."""

    def pairs(x: Array, join: Callable[[Array, Array], Array], fill: float) -> Array:
        joined = join(x[0::2], x[1::2])
        return jnp.concatenate([joined, jnp.full_like(joined, fill)])

    n, off = s.n[0::2] + s.n[1::2], s.mean[1::2] - s.mean[0::2]
    share = s.n[1::2] / jnp.maximum(n, 1)
    between = off * off * share * s.n[0::2]
    add = jnp.add
    return s._replace(
        stride=s.stride * 2,
        n=pairs(s.n, add, 0),
        mean=pairs(s.mean, lambda a, b: a + share * (b - a), 0),
        spread=pairs(s.spread, lambda a, b: a + b + between, 0),
        steps=pairs(s.steps, add, 0),
        turns=pairs(s.turns, add, 0),
        low=pairs(s.low, jnp.minimum, np.inf),
        high=pairs(s.high, jnp.maximum, -np.inf),
    )


def sketch_of(values: Any, present: Any = None, *, bins: int = BINS) -> Sketch:
    """The sketch of a whole series at once, in NumPy float64.

    It holds what `push` would have left, point by point, and is computed another way: from the
    series cut into equal pieces. Offline verdicts use it, and tests hold `push` against it.

    Args:
      values: `[R]`, anything that NumPy reads as floats; None where nothing was measured, NaN
        or inf where something was and is not finite.
      present: bool `[R]`, or None where all are.
      bins: M.

    Returns:
      `Sketch` of NumPy arrays.

    Raises:
      InputError: where `values` are no series of numbers.
    """
    x, given = _floats(values)
    x = x[given if present is None else given & np.asarray(present, bool)]
    finite = np.isfinite(x)
    skipped, broken = int((~finite).sum()), bool(x.size and not finite[-1])
    x = x[finite]
    stride = 1
    while -(-x.size // stride) > bins:
        stride *= 2
    with np.errstate(over="ignore", invalid="ignore"):
        d1 = np.diff(x, prepend=x[:1])
        turned = np.zeros(x.size, bool)
        turned[2:] = np.sign(d1[2:]) * np.sign(d1[1:-1]) < 0
        cells = _cells(x, stride, bins, np.nan)
        n = np.isfinite(cells).sum(1)
        filled = np.where(np.isfinite(cells), cells, 0.0)
        mean = filled.sum(1) / np.maximum(n, 1)
        off = np.where(np.isfinite(cells), cells - mean[:, None], 0.0)
        made = Sketch(
            seen=np.int32(x.size),
            stride=np.int32(stride),
            skipped=np.int32(skipped),
            broken=np.bool_(broken),
            first=np.float64(x[0] if x.size else 0.0),
            last=np.float64(x[-1] if x.size else 0.0),
            before=np.float64(x[-2] if x.size > 1 else 0.0),
            n=n.astype(np.int32),
            mean=mean,
            spread=(off**2).sum(1),
            steps=_cells(d1**2, stride, bins, 0.0).sum(1),
            turns=_cells(turned, stride, bins, 0).sum(1).astype(np.int32),
            low=np.where(np.isfinite(cells), cells, np.inf).min(1),
            high=np.where(np.isfinite(cells), cells, -np.inf).max(1),
            latest=_ring(x, bins // 2),
        )
    return made


def _floats(values: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        x = np.asarray([np.nan if v is None else v for v in values], np.float64)
        given = np.asarray([v is not None for v in values], bool)
    except (TypeError, ValueError) as error:
        raise InputError("values", type(values).__name__, "must be a series of numbers") from error
    if x.ndim != 1:
        raise InputError("values", x.shape, "must be one number a round, [R]")
    return x, given


def _cells(x: np.ndarray, stride: int, bins: int, fill: float) -> np.ndarray:
    """`[R]` cut into `[bins, stride]`."""
    out = np.full(bins * stride, fill, np.result_type(x, float))
    out[: x.size] = x
    return out.reshape(bins, stride)


def _ring(x: np.ndarray, size: int) -> np.ndarray:
    """The latest points, each at its number modulo `size`."""
    out, first = np.zeros(size), max(x.size - size, 0)
    out[np.arange(first, x.size) % size] = x[first:]
    return out
