"""Walk a jaxpr, inner programs included, and replace equations that a rule knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core as jex

from fedjax_sim.core.programs import alone
from fedjax_sim.core.types import Array, PyTree
from fedjax_sim.engine.lowering.rules import Replacement, Rules
from fedjax_sim.engine.programs import scan_counts

Jaxpr = Any  # jax.extend.core.Jaxpr
ClosedJaxpr = Any


def lower(function: Callable[..., PyTree], rules: Rules) -> Callable[..., PyTree]:
    """The same function with what `rules` knows rewritten.

    Args:
      function: pure, of arrays or trees; differentiate inside it, not through it.
      rules: of the platform that will run it (`rules_for`).

    Returns:
      A function of the same signature. Where nothing is to be rewritten its program is the
      one of `function`, operation for operation; else equal up to rounding. It may be
      vmapped, jitted, looped over and differentiated forward; reverse-mode differentiation
      *through* it is refused by jax.

    Cost: one more trace of `function` for each trace of the result.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_sim.engine.lowering import rules_for
      >>> def loss(w, x):
      ...     return jnp.sum(jax.lax.conv_general_dilated(x, w, (1, 1), "SAME") ** 2)
      >>> w, x = jnp.ones((2, 1, 3, 3)), jnp.ones((1, 1, 4, 4))
      >>> plain = jax.grad(loss)
      >>> bool(jnp.allclose(lower(plain, rules_for("cpu"))(w, x), plain(w, x)))
      True
    """

    def lowered(*args: PyTree) -> PyTree:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        if not _touched(closed.jaxpr, rules):
            return function(*args)
        flat = jax.tree.leaves(args)
        out = _evaluate(closed.jaxpr, closed.consts, flat, rules)
        return jax.tree.unflatten(jax.tree.structure(shapes), out)

    return lowered


def _touched(jaxpr: Jaxpr, rules: Rules) -> bool:
    """Whether a rule knows an equation of the program or of a program inside it."""
    for eqn in jaxpr.eqns:
        if rules.find(eqn) is not None:
            return True
        if any(_touched(inner, rules) for inner in _inner(eqn)):
            return True
    return False


def _inner(eqn: Any) -> list[Jaxpr]:
    """The programs in an equation's parameters."""
    found: list[Jaxpr] = []
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, jex.ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, jex.Jaxpr):
                found.append(item)
    return found


def _evaluate(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], rules: Rules
) -> list[Array]:
    """Run a program's equations in order, each as it is or as a rule has it."""
    values: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        outputs = _run(eqn, [read(v) for v in eqn.invars], rules)
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _run(eqn: Any, inputs: list[Any], rules: Rules) -> Sequence[Any]:
    replacement: Replacement | None = rules.find(eqn)
    if replacement is not None:
        return [replacement(*inputs)]
    if any(_touched(inner, rules) for inner in _inner(eqn)):
        descend = _DESCEND.get(eqn.primitive.name)
        if descend is not None:
            return descend(eqn, inputs, rules)
    return alone(eqn, inputs)


def _call(key: str) -> Callable[[Any, list[Any], Rules], Sequence[Any]]:
    """A call whose program can be run in place: jit, custom rules that have served."""

    def run(eqn: Any, inputs: list[Any], rules: Rules) -> Sequence[Any]:
        inner = eqn.params[key]
        consts = inner.consts if isinstance(inner, jex.ClosedJaxpr) else ()
        jaxpr = inner.jaxpr if isinstance(inner, jex.ClosedJaxpr) else inner
        return _evaluate(jaxpr, consts, inputs, rules)

    return run


def _checkpoint(eqn: Any, inputs: list[Any], rules: Rules) -> Sequence[Any]:
    """Rematerialization keeps its barrier, so that what was saved in memory stays saved."""

    def body(*args: Any) -> list[Array]:
        return _evaluate(eqn.params["jaxpr"], (), args, rules)

    prevent = eqn.params["prevent_cse"]
    return jax.checkpoint(body, prevent_cse=prevent, policy=eqn.params["policy"])(*inputs)


def _scan(eqn: Any, inputs: list[Any], rules: Rules) -> Sequence[Any]:
    p = eqn.params
    n_consts, n_carry = scan_counts(eqn)
    consts, init, xs = (
        inputs[:n_consts],
        inputs[n_consts : n_consts + n_carry],
        inputs[n_consts + n_carry :],
    )

    def body(carry: list[Array], x: list[Array]) -> tuple[list[Array], list[Array]]:
        inner = p["jaxpr"]
        out = _evaluate(inner.jaxpr, inner.consts, [*consts, *carry, *x], rules)
        return out[:n_carry], out[n_carry:]

    carry, ys = jax.lax.scan(
        body, init, xs, length=p["length"], reverse=p["reverse"], unroll=p["unroll"]
    )
    return [*carry, *ys]


def _while(eqn: Any, inputs: list[Any], rules: Rules) -> Sequence[Any]:
    p = eqn.params
    n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
    cond_consts, body_consts = inputs[:n_cond], inputs[n_cond : n_cond + n_body]

    def cond(carry: list[Array]) -> Array:
        inner = p["cond_jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, [*cond_consts, *carry], rules)[0]

    def body(carry: list[Array]) -> list[Array]:
        inner = p["body_jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, [*body_consts, *carry], rules)

    return jax.lax.while_loop(cond, body, inputs[n_cond + n_body :])


def _cond(eqn: Any, inputs: list[Any], rules: Rules) -> Sequence[Any]:
    index, *operands = inputs

    def branch(inner: ClosedJaxpr) -> Callable[..., list[Array]]:
        return lambda *args: _evaluate(inner.jaxpr, inner.consts, args, rules)

    return jax.lax.switch(index, [branch(b) for b in eqn.params["branches"]], *operands)


_DESCEND: dict[str, Callable[[Any, list[Any], Rules], Sequence[Any]]] = {
    "jit": _call("jaxpr"),
    "pjit": _call("jaxpr"),
    "closed_call": _call("call_jaxpr"),
    "core_call": _call("call_jaxpr"),
    "custom_jvp_call": _call("call_jaxpr"),
    "custom_vjp_call": _call("call_jaxpr"),
    "custom_lin": _call("call_jaxpr"),
    "checkpoint": _checkpoint,
    "remat2": _checkpoint,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
"""Equations with a program inside. In any other one (a user's `custom_vmap`, a `pallas_call`)
that program stays as it is."""
