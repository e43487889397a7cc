"""Reading the program (jaxpr) of a function, and running a part of it."""

from __future__ import annotations

from collections.abc import Sequence
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


def alone(eqn: Any, inputs: Sequence[Any]) -> Sequence[Any]:
    """Run one equation by jax's own evaluator, which knows every primitive's calling form."""
    given = {v: x for v, x in zip(eqn.invars, inputs, strict=True) if isinstance(v, jex.Var)}
    about = jex.DebugInfo("alone", eqn.primitive.name, None, None)
    program = jex.Jaxpr((), list(given), eqn.outvars, [eqn], eqn.effects, about)
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(program, ()))(*given.values())
