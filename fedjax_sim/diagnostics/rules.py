"""The rules: from numbers to one of six names. Thresholds are here, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from fedjax_sim.diagnostics.robust import CONFIDENT

CONVERGED, CONVERGING, STAGNATING = "converged", "converging", "stagnating"
OSCILLATING, DIVERGING, TOO_EARLY = "oscillating", "diverging", "too early to say"
NAMES = (CONVERGED, CONVERGING, STAGNATING, OSCILLATING, DIVERGING, TOO_EARLY)

FEWEST = 10
"""Points without which nothing is said."""
SHORT = 30
"""Points up to which a change below the noise means `too early`, not a plateau."""
AGREES = 0.6
"""Share of the last half's pace that the last quarter must show to bear it out."""
EXPLODED = 1e3
"""Loss over its start from which also fewer points are enough to call it diverging."""
FALL = 0.12
"""Share of the excess that the last quarter must take off to count as going down."""
LOW = 0.09
"""Height (end over start excess) that parts `converged` from `stagnating`: between the 5 %
below which flat means done and the 15 % above which it means stuck."""
HIGH = 0.15
"""Height of the test loss that means stuck: some of it is the gap to the training data."""
DONE = 3e-3
"""Height below which also a loss that still falls has converged."""
SWING = 0.28
"""Peak to trough over the mean excess from which swings matter."""
FADES = 3.0
"""Factor by which swings must shrink over half the run to count as dying out."""
GROWS = 1.3
"""Factor a sixth of the run by which the upper envelope must grow, twice, to diverge."""
RISES = 1.5
"""Factor by which the end must exceed the lowest level when the trend is up, and also by which
this rise must exceed every earlier one that came down again: a swing is not divergence."""
NOTICED, MANYFOLD = 0.02, 10.0
"""Top over the start, or rise over the lowest level, from which a rise matters: 1e-9 that became
2e-9 is rounding."""
DOUBLES = 0.5
"""Fading below which swings have doubled over half the run."""
CONTINUES = 0.1
"""Share by which the last quarter must lift the excess: a rise that levels off is none."""
HARDLY = 0.05
"""Share of its start that a positive loss must have lost, where no floor is known, for flat to
mean done: a loss that never moved is stuck."""
LOWEST = 1e-3
"""Peak to trough over the start's excess below which swings do not matter any more."""
UNDONE = -0.4
"""Autocorrelation of neighbours that counts as an alternation where the steps of the server
point against one another as well."""
UNLIKELY = -2.0
"""Standard errors by which it must be negative."""
AHEAD = 0.5
"""Mean step cosine above which steps agree with one another."""


class Ruling(NamedTuple):
    """A name, and how sure.

    Attributes:
      name: one of `NAMES`.
      margin: log of the deciding number over its threshold; larger is surer.
    """

    name: str
    margin: float


def rule(e: Mapping[str, float]) -> Ruling:
    """Apply the rules, the first that holds wins.

    1. Not finite: diverging. 2. Fewer than 10 points: too early. 3. Grows: diverging.
    4. Swings with a structure, large and lasting: oscillating. 5. Short, and no change beyond
    noise: too early. 6. Falls beyond noise and is not yet low: converging. 7. Flat: converged
    where low, stagnating where high.

    Args:
      e: the evidence.

    Returns:
      `Ruling`.
    """
    if e["broken"]:
        return Ruling(DIVERGING, math.inf)
    if e["points"] < FEWEST:
        if e["points"] >= 4 and e["top"] > EXPLODED and e["growth_low"] > 0:
            return Ruling(DIVERGING, math.log(e["top"] / EXPLODED))
        return Ruling(TOO_EARLY, math.log(FEWEST / max(e["points"], 1)))
    for judge in (_diverging, _oscillating, _too_early, _converging):
        ruling = judge(e)
        if ruling is not None:
            return ruling
    return _flat(e)


def _structured(e: Mapping[str, float]) -> bool:
    undone = e["memory"] < UNDONE and e["memory_surprise"] < UNLIKELY
    undone = undone and e.get("step_cosine", 0.0) < -AHEAD
    return e["structured"] > 0 or undone


def _diverging(e: Mapping[str, float]) -> Ruling | None:
    swinging = _structured(e) and e["fading"] > 1 / GROWS
    steady = (
        e["growth_low"] > 0
        and e["fall"] < -CONTINUES
        and e["rise"] > RISES * max(1.0, e["earlier_rise"])
    )
    lifted = steady and not swinging and (e["top"] > NOTICED or e["rise"] > MANYFOLD)
    beyond_noise = e["growth_low"] > 0 or _structured(e)
    growing = beyond_noise and e["top"] > 1 and e["envelope"] > GROWS
    growing = growing and (e["envelope_before"] > GROWS or e["fading"] < DOUBLES)
    if e.get("overfit", 0.0) > 0:  # training goes on: it is the test loss that rises
        return None
    overflows = not math.isfinite(e["noise"]) and e["top"] > 1
    if lifted or growing or overflows:
        return Ruling(DIVERGING, math.log(max(e["rise"] / RISES, e["envelope"] / GROWS, 1)))
    return None


def _oscillating(e: Mapping[str, float]) -> Ruling | None:
    large = e["swing"] >= SWING and e["swing"] * e["height"] > LOWEST
    if _structured(e) and large and e["fading"] < FADES:
        return Ruling(OSCILLATING, math.log(min(e["swing"] / SWING, FADES / e["fading"])))
    return None


def _too_early(e: Mapping[str, float]) -> Ruling | None:
    if e["rounds"] <= SHORT and e["change"] < e["change_by_noise"] and e["noise"] > 0:
        return Ruling(TOO_EARLY, math.log(e["change_by_noise"] / max(e["change"], 1e-300)))
    return None


def _converging(e: Mapping[str, float]) -> Ruling | None:
    by_means = _structured(e) and e["fall_of_means"] > FALL
    fall = e["fall_of_means"] if by_means else _fall(e)
    if fall > FALL and e["height"] > DONE:
        return Ruling(CONVERGING, math.log(min(fall / FALL, e["height"] / DONE)))
    return None


def _fall(e: Mapping[str, float]) -> float:
    """The share of its excess that a quarter of the run takes off, 0 where noise may explain it.

    What the last quarter is too noisy to prove, the last half may, if the quarter agrees; and
    where the server's steps agree with one another, the model does move, and less will do.
    """
    pace, least = _pace(e["fall"]), _pace(e["fall_low"])
    error = (pace - least) / CONFIDENT
    of_half = e["fall_of_half"] if e["fall_low_of_half"] > 0 else 0.0
    moves = e.get("step_cosine", 0.0) > AHEAD
    agrees = e["fall_low_of_half"] > FALL and e["fall"] > AGREES * of_half
    proven = least > 0 or agrees or (of_half and pace > 1.5 * error)
    if proven or (moves and pace > error):
        return e["fall"]
    return of_half if moves and abs(pace - _pace(of_half)) < 2 * error else 0.0


def _pace(fall: float) -> float:
    """A share that is taken off as a rate on the log scale, on which errors are even."""
    return -math.log(max(1 - fall, 1e-300))


def _flat(e: Mapping[str, float]) -> Ruling:
    if math.isnan(e["floor"]) and e["height"] <= LOW:
        leaving = e.get("step_norm_growth_low", 0.0) > 0 and e.get("step_cosine", 0.0) > AHEAD
        if leaving:
            return Ruling(STAGNATING, e["step_norm_growth"])
        if e["first"] > 0 and e["gain"] < HARDLY:
            return Ruling(STAGNATING, math.log(HARDLY / max(e["gain"], 1e-12)))
    if e["below_floor"]:  # the train loss is another objective: what the test loss says counts
        if e.get("test_fall", 0.0) > FALL and e["test_height"] > DONE:
            return Ruling(CONVERGING, math.log(e["test_fall"] / FALL))
        if e.get("test_height", 0.0) > HIGH:
            return Ruling(STAGNATING, math.log(e["test_height"] / HIGH))
    if e["height"] <= LOW:
        return Ruling(CONVERGED, math.log(LOW / max(e["height"], 1e-12)))
    return Ruling(STAGNATING, math.log(e["height"] / LOW))
