"""The answer about a point: its kind, and every number that it rests on."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from fedjax_sim.core.checks import number
from fedjax_sim.core.types import PyTree
from fedjax_sim.diagnostics.descent import Walk
from fedjax_sim.diagnostics.spectrum import Spectrum

NOT_STATIONARY, MINIMUM = "not stationary", "local minimum"
SADDLE, FLAT = "saddle", "flat"
KINDS = (NOT_STATIONARY, MINIMUM, SADDLE, FLAT)


@dataclasses.dataclass(frozen=True)
class Tolerances:
    """When a number counts as zero; the words are in `diagnostics.critical`.

    Attributes:
      stationary: share of the loss's scale that a gradient step may still promise.
      curvature: share of the largest absolute eigenvalue below which one counts as flat.
      eigenvalue: relative error at which Lanczos stops refining both ends.
    """

    stationary: float = 1e-6
    curvature: float = 1e-4
    eigenvalue: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("stationary", "curvature", "eigenvalue"):
            number(f"tolerances.{name}", getattr(self, name), above=0, below=1)


class Scales(NamedTuple):
    """What a loss, a distance and a curvature are compared with.

    Attributes:
      loss: of f.
      reach: a distance between models that is worth a look.
      curvature: the largest absolute eigenvalue found.
      zero: curvatures below this count as none.
    """

    loss: float
    reach: float
    curvature: float
    zero: float


class Bounded(NamedTuple):
    """An eigenvalue and how far it may be off."""

    value: float
    error: float


@dataclasses.dataclass(frozen=True)
class Critical:
    """The answer for one point.

    Attributes:
      kind: `not stationary`, `local minimum`, `saddle` or `flat`. A maximum is a saddle: there
        is a way down.
      degenerate: the second order does not decide: a saddle found by higher order, or a
        minimum with flat directions.
      sentence: the answer in words.
      loss: f.
      gradient_norm: `|grad f|`.
      promised: the decrease that the best gradient step promises.
      gained: the largest decrease that was found along the gradient; NaN where the promise was
        too small to be tried.
      gradient_curvature: along the gradient.
      low: the lowest eigenvalue.
      high: the highest one.
      negative: eigenvalues below zero by more than the tolerance (estimated unless exact).
      flat: eigenvalues within the tolerance of zero, or too close to it to tell (likewise).
      walk: the loss along the way down: out of the saddle, down the gradient where not
        stationary, along the lowest curvature elsewhere.
      profile: `[2, k]`, evenly spaced distances along the walk and the changes of f there.
      scales: what numbers were compared with.
      spectrum: density of eigenvalues.
      tolerances: as given.
      parameters: P.
      products: Hessian-vector products spent.
      measured: which loss, see `landscape`.
      weighting: how clients count.
      epsilon: rounding unit of the numbers.
      descent: the walk's direction in the shape of the model's params.
    """

    kind: str
    degenerate: bool
    sentence: str
    loss: float
    gradient_norm: float
    promised: float
    gained: float
    gradient_curvature: float
    low: Bounded
    high: Bounded
    negative: int
    flat: int
    walk: Walk
    profile: np.ndarray
    scales: Scales
    spectrum: Spectrum
    tolerances: Tolerances
    parameters: int
    products: int
    measured: str
    weighting: str
    epsilon: float
    descent: PyTree

    @property
    def predicted_decrease(self) -> float:
        """What the quadratic model promises for the step along the walk."""
        return self.walk.predicted

    @property
    def verified_decrease(self) -> float:
        """What the step along the walk was found to gain."""
        return self.walk.verified

    def facts(self) -> dict[str, Any]:
        """Everything but vectors, JSON-ready."""
        plain = ("kind", "degenerate", "sentence", "loss", "gradient_norm", "promised", "gained")
        more = ("gradient_curvature", "negative", "flat", "parameters", "products")
        last = ("measured", "weighting", "epsilon")
        found = {n: getattr(self, n) for n in (*plain, *more, *last)}
        for name in ("low", "high", "scales"):
            found[name] = {k: float(v) for k, v in getattr(self, name)._asdict().items()}
        way = self.walk._asdict()
        way.pop("direction")
        found["walk"] = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in way.items()}
        found["profile"] = {"distances": self.profile[0].tolist()}
        found["profile"]["changes"] = self.profile[1].tolist()
        found["tolerances"] = dataclasses.asdict(self.tolerances)
        found["spectrum"] = {
            "values": self.spectrum.values.tolist(),
            "weights": self.spectrum.weights.tolist(),
            "errors": self.spectrum.errors.tolist(),
            "exact": self.spectrum.exact,
        }
        return _finite(found)


def _finite(value: Any) -> Any:
    """Numbers that are not finite as None, so that JSON stays JSON."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
