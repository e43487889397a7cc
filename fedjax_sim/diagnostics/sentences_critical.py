"""The answer about a point, in words that a person understands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedjax_sim.diagnostics.critical_answer import Critical


def sentence(c: Critical) -> str:
    """One to three sentences: what it is, by which numbers, and what follows.

    Args:
      c: the answer, its own `sentence` still empty.
    """
    words = {
        "not stationary": _not_stationary,
        "saddle": _saddle,
        "local minimum": _minimum,
        "flat": _flat,
    }[c.kind](c)
    return words + _doubt(c)


def _not_stationary(c: Critical) -> str:
    share = c.promised / c.scales.loss
    words = (
        f"Not stationary: the gradient's length is {c.gradient_norm:.2g}, and a step along it "
        f"promises to lower the loss by {c.promised:.2g} ({share:.2g} of its scale); "
        f"{c.gained:.2g} was found."
    )
    if c.low.value < -c.scales.zero:
        words += f" The ground is not convex here: the lowest curvature is {c.low.value:.2g}."
    return words


def _gradient(c: Critical) -> str:
    """How the gradient fails to lead down."""
    if c.promised > c.tolerances.stationary * c.scales.loss:
        return f"no step along the gradient gains more than {max(c.gained, 0.0):.1g}"
    return f"the gradient has vanished ({c.gradient_norm:.2g})"


def _saddle(c: Critical) -> str:
    found = f"a step of {c.walk.step:.2g} along it lowers the loss by {c.verified_decrease:.2g} "
    if c.degenerate:
        return (
            "A degenerate saddle: neither gradient nor curvature shows a way down, and there is "
            f"one of higher order; {found.rstrip()}."
        )
    top = c.high.value <= c.scales.zero
    words = "A maximum (every direction goes down): " if top else f"A saddle: {_gradient(c)}, yet "
    words += f"{_about(c, c.negative, 'direction')} of {c.parameters:,} "
    words += "goes" if c.negative == 1 else "go"
    words += f" down, the steepest with curvature {c.low.value:.3g} "
    words += f"(the highest is {c.high.value:.3g}); "
    if c.verified_decrease <= 0:
        return words + "no step along it lowers the loss beyond rounding."
    return words + found + f"(predicted {c.predicted_decrease:.2g})."


def _minimum(c: Critical) -> str:
    words = (
        f"A local minimum: {_gradient(c)} and no direction "
        f"goes down; curvatures lie between {c.low.value + 0.0:.2g} and {c.high.value:.3g}."
    )
    if c.flat:
        words += (
            f" {_about(c, c.flat, 'direction').capitalize()} of {c.parameters:,} "
            f"{'is' if c.flat == 1 else 'are'} flat{'' if c.spectrum.exact else ' or nearly so'}."
        )
    return words


def _flat(c: Critical) -> str:
    return (
        "Flat ground: neither gradient nor curvature, and the loss does not change in any "
        f"direction looked along, up to a distance of {c.scales.reach:.2g}."
    )


def _about(c: Critical, number: int, noun: str) -> str:
    shown = f"{number:,}" if c.spectrum.exact else f"about {number:,}" if number else "at least one"
    return f"{shown} {noun}{'' if number == 1 or (not number) else 's'}"


def _doubt(c: Critical) -> str:
    """What Lanczos did not settle."""
    if (
        c.kind in ("saddle", "not stationary", "flat")
        or c.low.value - c.low.error >= -c.scales.zero
    ):
        return ""
    return (
        f" The lowest curvature is known only to {c.low.error:.1g}, more than what counts as "
        "flat: more steps would tell."
    )
