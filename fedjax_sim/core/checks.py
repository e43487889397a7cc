"""Bad input gets one clear message: which field, which value, what would be right."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from typing import Any

import numpy as np


class InputError(ValueError):
    """Input that a person can mend; the command line prints it and exits with 2.

    Attributes:
      field: the name a user would look for, dotted when nested (`data.alpha`).
      value: what was given.
      remedy: what would be right.
    """

    def __init__(self, field: str, value: Any, remedy: str) -> None:
        self.field, self.value, self.remedy = field, value, remedy
        super().__init__(f"{field} = {_short(value)}: {remedy}")


def _short(value: Any, limit: int = 120) -> str:
    text = value if isinstance(value, str) and not value.isspace() and value else repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def number(
    field: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse a concrete number that is not finite or out of bounds.

    Traced values pass unchecked: bounds are checked where the number enters.
    """
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(value, jax.core.Tracer):
        return
    if isinstance(value, bool) or not np.issubdtype(np.asarray(value).dtype, np.number):
        raise InputError(field, value, "must be a number")
    bounds = [
        (above, lambda v, b: v > b, "greater than"),
        (least, lambda v, b: v >= b, "at least"),
        (below, lambda v, b: v < b, "less than"),
        (most, lambda v, b: v <= b, "at most"),
    ]
    wanted = " and ".join(f"{word} {b:g}" for b, _, word in bounds if b is not None)
    for v in np.asarray(value, float).ravel():
        good = math.isfinite(v) and all(test(v, b) for b, test, _ in bounds if b is not None)
        if not good:
            raise InputError(field, value, f"must be a finite number {wanted}".rstrip())


def integer(field: str, value: Any, *, least: int | None = None, most: int | None = None) -> int:
    """Return `value` as int, or refuse what is not a whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(field, value, "must be a whole number")
    if least is not None and value < least:
        raise InputError(field, value, f"must be at least {least}")
    if most is not None and value > most:
        raise InputError(field, value, f"must be at most {most}")
    return int(value)


def choice(field: str, value: Any, options: Collection[str]) -> None:
    """Refuse a value that is not one of `options`, naming the closest ones."""
    if value not in options:
        raise InputError(field, value, f"must be one of: {', '.join(sorted(options))}")
