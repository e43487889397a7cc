"""From pydantic's errors to one message: which field, which value, what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import ValidationError

from fedjax_sim.core.checks import InputError

MISSING = "(nothing)"
_ACCEPTED_SHOWN = 16

_TYPES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list in [ ]",
    "dict_type": "must be a section of keys",
    "model_type": "must be a section of keys",
    "model_attributes_type": "must be a section of keys",
    "finite_number": "must be a finite number",
}
_BOUNDS = {
    "greater_than": ("gt", "must be greater than {}"),
    "greater_than_equal": ("ge", "must be at least {}"),
    "less_than": ("lt", "must be less than {}"),
    "less_than_equal": ("le", "must be at most {}"),
}


def nearest(word: Any, options: Collection[str]) -> str:
    """`did you mean 'x'? ` for the closest of `options`, or nothing where none is close."""
    close = difflib.get_close_matches(str(word).lower(), [o.lower() for o in options], n=1)
    found = [o for o in options if close and o.lower() == close[0]]
    return f"did you mean {found[0]!r}? " if found else ""


def one_of(word: Any, options: Collection[str], *, what: str = "must be one of") -> str:
    """A remedy that names the closest of `options` and lists them."""
    shown = list(options)[:_ACCEPTED_SHOWN]
    more = ", ..." if len(options) > len(shown) else ""
    return f"{nearest(word, options)}{what}: {', '.join(shown)}{more}"


def explain(error: ValidationError, accepted: Callable[[tuple[Any, ...]], list[str]]) -> InputError:
    """One `InputError` for all that pydantic found; the first fault leads.

    Args:
      error: what `model_validate` raised.
      accepted: from the location of a section to the keys that it takes.
    """
    told = [_tell(fault, accepted) for fault in error.errors(include_url=False)]
    field, value, remedy = told[0]
    others = [str(InputError(*fault)) for fault in told[1:]]
    return InputError(field, value, "\n  also ".join([remedy, *others]))


def _tell(
    fault: Mapping[str, Any], accepted: Callable[[tuple[Any, ...]], list[str]]
) -> tuple[str, Any, str]:
    loc, kind, context = fault["loc"], fault["type"], fault.get("ctx", {})
    field, value = dotted(loc), fault["input"]
    if kind == "missing":
        return field, MISSING, "is needed here"
    if kind == "extra_forbidden":
        where = f"[{dotted(loc[:-1])}] takes" if loc[:-1] else "an experiment has the sections"
        remedy = one_of(loc[-1], accepted(loc[:-1]), what=where)
        return field, value, f"is not known; {remedy}"
    if kind == "literal_error":
        return field, value, f"must be {context['expected']}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return field, value, words.format(context[name])
    if kind == "value_error":
        return field, value, str(context["error"])
    return field, value, _TYPES.get(str(kind), str(fault["msg"]))


def dotted(loc: tuple[Any, ...]) -> str:
    """`("model", "widths", 1)` as `model.widths[1]`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
