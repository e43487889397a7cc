"""Programs with a conditional: which branch is taken, and the program that always takes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

Equation = Any


def conditional(program: ClosedJaxpr, by: int | None = None) -> Equation | None:
    """The equation of the program's own conditional that does most, or None.

    Args:
      program: traced; programs inside it are not looked into.
      by: the place of a scalar argument, such as a step's number: only a conditional whose branch
        is decided by comparing it with what no argument changes. A draw keyed by it is no
        comparison, for it changes at random. Of several none, for their branches would multiply.
    """
    found = [e for e in program.jaxpr.eqns if e.primitive.name == "cond"]
    if by is not None:
        found = [e for e in found if _compares(program, e, by)]
        found = found if len(found) == 1 else []
    size = [sum(len(b.jaxpr.eqns) for b in e.params["branches"]) for e in found]
    return found[size.index(max(size))] if found else None


def branch_of(program: ClosedJaxpr, chosen: Equation) -> Callable[..., Any]:
    """Which branch of `chosen` is taken, int32, a function of the program's flat arguments.

    Those that do not matter to it are not looked at, and may be anything.
    """
    places, eqns = _decision(program, chosen)
    invars = [program.jaxpr.invars[i] for i in places]
    which = _part(program, invars, eqns, chosen.invars[:1])
    return lambda *values: which(*(values[i] for i in places))[0]


def branch_by(program: ClosedJaxpr, chosen: Equation, by: int) -> Callable[[Any], Any]:
    """`branch_of` as a function of argument `by` alone, for a conditional found by it.

    What does not depend on the argument is computed here, once.
    """
    fixed, varying = _apart(program, chosen, by)
    made = {v for e in fixed for v in e.outvars}
    read = {v for e in varying for v in _variables(e.invars)} | set(_variables(chosen.invars[:1]))
    known = [v for v in made if v in read]
    values = _part(program, [], fixed, known)()
    which = _part(program, [program.jaxpr.invars[by], *known], varying, chosen.invars[:1])
    return lambda value: which(value, *values)[0]


def always(program: ClosedJaxpr, chosen: Equation, branch: int) -> Callable[..., list[Any]]:
    """The program as it would be if `chosen` always took `branch`, on flat arguments."""
    return lambda *values: _run_branch(program, chosen, branch, values)


_COMPARISONS = {"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "min", "max", "clamp"}
_ARITHMETIC = {"add", "sub", "mul", "select_n", "convert_element_type", "broadcast_in_dim"}


def _compares(program: ClosedJaxpr, chosen: Equation, by: int) -> bool:
    """Whether argument `by`, and no other, decides the branch, and only by comparisons."""
    known = _COMPARISONS | _ARITHMETIC
    varying = _apart(program, chosen, by)[1]
    return _decision(program, chosen)[0] == [by] and all(e.primitive.name in known for e in varying)


def _apart(
    program: ClosedJaxpr, chosen: Equation, by: int
) -> tuple[list[Equation], list[Equation]]:
    """What decides the branch: equations that argument `by` does not change, and the others."""
    fixed: list[Equation] = []
    varying: list[Equation] = []
    touched = {program.jaxpr.invars[by]}
    for eqn in _decision(program, chosen)[1]:
        if touched & set(_variables(eqn.invars)):
            touched |= set(eqn.outvars)
            varying.append(eqn)
        else:
            fixed.append(eqn)
    return fixed, varying


def _decision(program: ClosedJaxpr, chosen: Equation) -> tuple[list[int], list[Equation]]:
    """What decides the branch of `chosen`: places of arguments, and equations in order."""
    jaxpr, needed, eqns = program.jaxpr, set(_variables(chosen.invars[:1])), []
    for eqn in reversed(jaxpr.eqns[: jaxpr.eqns.index(chosen)]):
        if needed & set(eqn.outvars):
            needed |= set(_variables(eqn.invars))
            eqns.append(eqn)
    return [i for i, v in enumerate(jaxpr.invars) if v in needed], eqns[::-1]


def _run_branch(
    program: ClosedJaxpr, chosen: Equation, branch: int, values: Sequence[Any]
) -> list[Any]:
    jaxpr, at = program.jaxpr, program.jaxpr.eqns.index(chosen)
    made = [v for e in jaxpr.eqns[:at] for v in e.outvars if type(v).__name__ != "DropVar"]
    outvars = [*made, *_variables(chosen.invars[1:])]
    found = _part(program, jaxpr.invars, jaxpr.eqns[:at], outvars)(*values)
    given = iter(found[len(made) :])
    taken = [v.val if hasattr(v, "val") else next(given) for v in chosen.invars[1:]]
    out = jaxpr_as_fun(chosen.params["branches"][branch])(*taken)
    kept = [(v, o) for v, o in zip(chosen.outvars, out, strict=True) if v in _used(jaxpr, at)]
    names = [*jaxpr.invars, *made, *(v for v, _ in kept)]
    after = _part(program, names, jaxpr.eqns[at + 1 :], jaxpr.outvars)
    return after(*values, *found[: len(made)], *(o for _, o in kept))


def _variables(atoms: Any) -> list[Any]:
    return [v for v in atoms if not hasattr(v, "val")]


def _used(jaxpr: Any, at: int) -> set[Any]:
    """Variables that are read after equation `at`."""
    later = {v for e in jaxpr.eqns[at + 1 :] for v in _variables(e.invars)}
    return later | set(_variables(jaxpr.outvars))


def _part(program: ClosedJaxpr, invars: Any, eqns: Any, outvars: Any) -> Callable[..., list[Any]]:
    """Some of the program's equations as a function."""
    jaxpr = program.jaxpr.replace(
        invars=list(invars),
        eqns=list(eqns),
        outvars=list(outvars),
        debug_info=program.jaxpr.debug_info.with_unknown_names(),
    )
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, program.consts))
