"""Reading the program (jaxpr) of a function."""

from __future__ import annotations

from typing import Any

from jax.extend import core as jex


def called(eqn: Any) -> Any:
    """The program that an equation runs once, as it is, or None."""
    if eqn.primitive.name in ("scan", "while", "cond"):
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if isinstance(inner, (jex.ClosedJaxpr, jex.Jaxpr)):
            return inner
    return None
