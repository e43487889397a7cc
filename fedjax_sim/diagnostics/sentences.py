"""A verdict in one sentence that a person understands, with the numbers that decided."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedjax_sim.diagnostics import rules


def sentence_of(name: str, e: Mapping[str, float]) -> str:
    """The sentence.

    Args:
      name: the verdict.
      e: the evidence.
    """
    return _BY_NAME[name](e)


def _number(x: float) -> str:
    return f"{x:.3g}"


def _percent(x: float) -> str:
    return f"{100 * x:.2g} %" if abs(x) < 0.1 else f"{100 * x:.0f} %"


def _height(e: Mapping[str, float]) -> str:
    if math.isnan(e["floor"]):
        seen = f"best seen {_number(e['best'])}, started at {_number(e['first'])}"
        return f"{_number(e['end'])} ({seen})"
    return f"{_number(e['end'])}, {_percent(e['height'])} of the excess it started with"


def _diverging(e: Mapping[str, float]) -> str:
    if e["broken"]:
        return f"The loss is no longer finite after {e['points']:.0f} finite values."
    return (
        f"The loss grows: it stands at {_number(e['end'])}, "
        f"{_number(e['rise'])} times its lowest excess, and is still rising."
    )


def _oscillating(e: Mapping[str, float]) -> str:
    fade = (
        "and they do not die out"
        if e["fading"] < 1.2
        else f"fading only {_number(e['fading'])}-fold over half the run"
    )
    return (
        f"The loss swings by {_percent(e['swing'])} of its mean excess about every "
        f"{_number(e['period'])} rounds, {fade}."
    )


def _converging(e: Mapping[str, float]) -> str:
    of, share, least = "quarter", e["fall"], e["fall_low"]
    if least <= 0 and e["fall_low_of_half"] > 0:
        of, share, least = "half", e["fall_of_half"], e["fall_low_of_half"]
    sure = f" (at least {_percent(least)} beyond noise)" if least > 0 else ""
    fell = f"{_percent(share)} of the excess in the last {of}{sure}"
    return f"The loss still falls: {fell}; it stands at {_height(e)}."


def _converged(e: Mapping[str, float]) -> str:
    return f"The loss is flat and low: {_height(e)}."


def _stagnating(e: Mapping[str, float]) -> str:
    return f"The loss is stuck on a plateau: {_height(e)}."


def _early(e: Mapping[str, float]) -> str:
    points = f"{e['points']:.0f} round{'' if e['points'] == 1 else 's'}"
    if e["points"] < rules.FEWEST:
        return f"{points} seen; at least {rules.FEWEST} are needed to say anything."
    return f"After {points} the change, {_number(e['change'])}, is what noise alone would do."


_BY_NAME = {
    rules.DIVERGING: _diverging,
    rules.OSCILLATING: _oscillating,
    rules.CONVERGING: _converging,
    rules.CONVERGED: _converged,
    rules.STAGNATING: _stagnating,
    rules.TOO_EARLY: _early,
}
