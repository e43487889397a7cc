"""The likeliest cause of a verdict, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Cause(NamedTuple):
    """Why, and what then.

    Attributes:
      cause: the likeliest cause, in words.
      remedy: what a person would try first.
    """

    cause: str
    remedy: str


RATE_HIGH = Cause("the rate is too high", "cut the client or server rate by 2 to 10")
RATE_LOW = Cause("the rate is too low", "raise the rate 3 to 10 times, or add momentum")
MOMENTUM = Cause(
    "momentum is too large for this rate", "lower momentum (0.9 to 0.5), or cut the rate"
)
DRIFT = Cause(
    "too many local steps for clients this different (client drift)",
    "fewer local steps or a lower client rate; or scaffold, fednova, fedprox",
)
CONFLICT = Cause(
    "clients that want different models (concept shift)",
    "personal or clustered models; look at client_* and the groups' verdicts",
)
NOISE = Cause(
    "noise of batches or of client sampling",
    "larger batches or a larger cohort, or let the rate decay",
)
PERIODIC = Cause(
    "something that repeats: clients that take turns, a cyclic schedule, or a rate at the edge",
    "mix the cohorts, or cut the rate and see whether the period stays",
)
SADDLE = Cause(
    "a saddle or a plateau",
    "probe the Hessian (fedjax-sim probe); perturb, or step along negative curvature",
)
NEAR_END = Cause("near the optimum of this model and these data", "stop here")
LIMIT = Cause(
    "a fixed point above the lowest loss: the model's limit, or a biased method",
    "a larger model, other features, fewer local steps; probe it to be sure",
)
FEW = Cause("too few rounds", "go on")
OVERFIT = Cause(
    "overfitting: the test loss rises while the train loss falls",
    "keep the best model, stop early, regularize",
)
BROKEN = Cause("the rate is too high, or a value overflowed", "cut the rate, clip updates")

ALTERNATES = -0.5
"""Mean step cosine below which steps undo one another, as they do near the rate 2/L."""
AHEAD = 0.5
"""Mean step cosine above which steps agree: progress is limited by their length."""
DEAF = 0.1
"""|server step| against its start, below which the server stands still."""

ALIKE = 10.0
"""Dirichlet's alpha from which clients' labels are as good as equal."""


def cause_of(name: str, evidence: Mapping[str, float], facts: Mapping[str, Any]) -> Cause:
    """Name the likeliest cause.

    Args:
      name: the verdict.
      evidence: its numbers.
      facts: what is known of the run besides, all optional: `momentum`, `server_momentum`,
        `local_steps` (a client and round) or `epochs`, `iid` (bool) or `alpha` (of a Dirichlet
        partition).

    Returns:
      `Cause`.
    """
    found = _BY_NAME[name](evidence, facts)
    if name in ("converging", "converged", "stagnating") and evidence.get("overfit", 0.0) > 0:
        return OVERFIT
    return found


def _momentum(facts: Mapping[str, Any]) -> float:
    return max(float(facts.get("momentum") or 0), float(facts.get("server_momentum") or 0))


def _local_steps(facts: Mapping[str, Any]) -> float:
    return float(facts.get("local_steps") or facts.get("epochs") or 1)


def _uneven(evidence: Mapping[str, float], facts: Mapping[str, Any]) -> bool:
    """Whether clients may well differ: known to, or not known not to."""
    alike = facts.get("iid", False) or float(facts.get("alpha") or 0) >= ALIKE
    return not alike and evidence.get("drift_cosine", 0.0) < AHEAD


def _diverging(evidence: Mapping[str, float], facts: Mapping[str, Any]) -> Cause:
    if evidence.get("broken"):
        return BROKEN
    if _momentum(facts) >= 0.8 and evidence.get("step_cosine", 0.0) > ALTERNATES:
        return MOMENTUM
    return RATE_HIGH


def _oscillating(evidence: Mapping[str, float], facts: Mapping[str, Any]) -> Cause:
    cosine = evidence.get("step_cosine", 0.0)
    if cosine <= ALTERNATES or 0 < evidence.get("period", 0.0) <= 2.5:
        return RATE_HIGH
    if _momentum(facts) >= 0.5 or (cosine >= AHEAD and evidence.get("period", 0.0) > 4):
        return MOMENTUM
    return PERIODIC


def _stagnating(evidence: Mapping[str, float], facts: Mapping[str, Any]) -> Cause:
    cosine, shrunk = evidence.get("step_cosine", 0.0), evidence.get("step_norm_ratio", 1.0)
    if evidence.get("step_norm_growth", 0.0) > 0.3 and cosine > 0:
        return SADDLE
    if cosine <= ALTERNATES:
        return RATE_HIGH
    if cosine >= AHEAD and shrunk > DEAF:
        return RATE_LOW
    if evidence.get("noise_share", 0.0) > 0.1 and abs(cosine) < AHEAD:
        return NOISE
    if shrunk <= DEAF:
        if _local_steps(facts) > 1 and _uneven(evidence, facts):
            return CONFLICT if evidence.get("client_spread", 0.0) > 0.5 else DRIFT
        return LIMIT
    return SADDLE if cosine > 0 else LIMIT


def _converging(evidence: Mapping[str, float], facts: Mapping[str, Any]) -> Cause:
    slow = evidence.get("fall", 0.0) < 0.35 and evidence.get("step_cosine", 0.0) >= AHEAD
    return RATE_LOW if slow and evidence.get("height", 0.0) > 0.2 else FEW


def _converged(evidence: Mapping[str, float], facts: Mapping[str, Any]) -> Cause:
    return NEAR_END


def _early(evidence: Mapping[str, float], facts: Mapping[str, Any]) -> Cause:
    return FEW


_BY_NAME = {
    "diverging": _diverging,
    "oscillating": _oscillating,
    "stagnating": _stagnating,
    "converging": _converging,
    "converged": _converged,
    "too early to say": _early,
}
