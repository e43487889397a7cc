"""A function of a model whose kernels are sums of a frozen one and two factors, never added up."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from fedjax_sim.core.programs import alone
from fedjax_sim.core.types import Array, PyTree
from fedjax_sim.tasks.lora import Factors


class Kernel(NamedTuple):
    """`frozen + a b`, a matrix.

    Attributes:
      frozen: `[in, out]`.
      a: `[in, r]`.
      b: `[r, out]`, scaled.
    """

    frozen: Array
    a: Array
    b: Array

    def whole(self) -> Array:
        """The sum, for what needs every entry."""
        return self.frozen + self.a @ self.b


def evaluate(
    function: Callable[[PyTree], PyTree],
    params: PyTree,
    factors: tuple[Any, ...],
    alpha: Array | float,
) -> PyTree:
    """`function` at `W + (alpha / r) a b` for every kernel, the rest as it is.

    A product with a matrix is taken as `x W + (x a) b`, read off the program of `function`, so that
    neither the sum nor its gradient is ever made; where a program does anything else with a kernel
    (a convolution, a loop over layers) it is added up.

    Args:
      function: of the parameters alone; it may close over traced values.
      params: frozen.
      factors: as `lora.no_factors` lays them out.
      alpha: scale of the factors, divided by r.

    Cost: one more trace of `function`; `(1 + r / in + r / out)` times a product.
    """
    leaves, structure = jax.tree.flatten(params)
    closed, shape = jax.make_jaxpr(
        lambda *given: function(jax.tree.unflatten(structure, given)), return_shape=True
    )(*leaves)
    given = [_kernel(leaf, f, alpha) for leaf, f in zip(leaves, factors, strict=True)]
    found = _run(closed.jaxpr, closed.consts, given)
    return jax.tree.unflatten(jax.tree.structure(shape), map(_whole, found))


def _kernel(leaf: Array, factors: Any, alpha: Array | float) -> Any:
    if not isinstance(factors, Factors):
        return leaf
    a, b = factors
    scaled = jnp.asarray(alpha, leaf.dtype) / jnp.asarray(b.shape[0], leaf.dtype) * b
    return Kernel(leaf, a, scaled) if leaf.ndim == 2 else leaf + (a @ scaled).reshape(leaf.shape)


def _whole(value: Any) -> Any:
    return value.whole() if isinstance(value, Kernel) else value


def _run(jaxpr: Any, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
    """The program's outputs, equation by equation."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, given, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        values.update(zip(eqn.outvars, _equation(eqn, [read(v) for v in eqn.invars]), strict=True))
    return [read(v) for v in jaxpr.outvars]


def _equation(eqn: Any, inputs: list[Any]) -> Sequence[Any]:
    name = eqn.primitive.name
    if not any(isinstance(x, Kernel) for x in inputs):
        return alone(eqn, inputs)
    if name in ("jit", "pjit"):
        return _run(eqn.params["jaxpr"].jaxpr, eqn.params["jaxpr"].consts, inputs)
    if name == "convert_element_type":
        return [Kernel(*(alone(eqn, [part])[0] for part in inputs[0]))]
    if name == "dot_general" and _applies(eqn, inputs):
        return [_product(eqn, *inputs)]
    return alone(eqn, [_whole(x) for x in inputs])


def _applies(eqn: Any, inputs: list[Any]) -> bool:
    """Whether an array is multiplied by a kernel, over one axis of either."""
    (_, right), batched = eqn.params["dimension_numbers"]
    plain = not isinstance(inputs[0], Kernel) and isinstance(inputs[1], Kernel)
    return plain and len(right) == 1 and not any(batched)


def _product(eqn: Any, x: Array, kernel: Kernel) -> Array:
    """`x W + (x a) b`, or with the transposed kernel `x W' + (x b') a'`."""
    p = eqn.params
    dot = functools.partial(
        jax.lax.dot_general,
        precision=p["precision"],
        preferred_element_type=p["preferred_element_type"],
    )
    axis = p["dimension_numbers"][0][1][0]
    first, second = (kernel.a, kernel.b) if axis == 0 else (kernel.b, kernel.a)
    inner = dot(x, first, p["dimension_numbers"])
    over = (((inner.ndim - 1,), (axis,)), ((), ()))
    added = dot(inner.astype(second.dtype), second, over)
    return dot(x, kernel.frozen, p["dimension_numbers"]) + added
