"""Test functions with saddles, as tasks: their critical points are known by construction.

A surface f over R^dim is learned like anything else. In a batch x is a tilt `[B, dim]`: the
loss of an example is `f(p) + x . p`. Clients with different tilts disagree about the slope and
not about the curvature; where the tilts of all examples sum to zero, the federated objective is
f itself. Targets y are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Batch, PyTree
from fedjax_sim.tasks.build import shield
from fedjax_sim.tasks.functional import from_loss
from fedjax_sim.tasks.objectives import sum_where


class Surface(NamedTuple):
    """A function over R^dim.

    Attributes:
      name: for tables.
      value: `(p [dim]) -> scalar`.
      dim: number of parameters.
    """

    name: str
    value: Callable[[Array], Array]
    dim: int


def surface(function: Surface, start: Any, *, dtype: Any = None) -> Task:
    """A task whose loss is the surface plus each example's tilt.

    Args:
      function: one of this module's, or any `Surface`.
      start: where parameters start, `[dim]`; on a stable manifold, descent stays there.
      dtype: of the parameters; by default jax's default float.

    Returns:
      A task with `params = {"x": [dim]}`; outputs are the parameters, `[B, dim]`; its metric
      is `loss`.

    Raises:
      InputError: when `start` has another shape.

    Example:
      >>> task = surface(saddle(), [1.0, 2.0])
      >>> batch = Batch(jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.ones(1, bool))
      >>> value, _ = task.loss(jax.random.key(0), task.init(jax.random.key(0)), batch)
      >>> float(value)
      -1.5
    """
    origin = np.asarray(start, float)
    if origin.shape != (function.dim,):
        raise InputError("start", origin.shape, f"must have shape ({function.dim},)")

    def init(key: Array) -> PyTree:
        del key
        return {"x": jnp.asarray(origin, jnp.result_type(float) if dtype is None else dtype)}

    def heights(points: Array, tilt: Array) -> Array:
        """Of points `[B, dim]`; `[B]`."""
        return jax.vmap(function.value)(points) + jnp.sum(tilt.astype(points.dtype) * points, -1)

    def losses(params: PyTree, x: Array, y: Array) -> Array:
        del y
        return heights(predict(params, x), x)

    def predict(params: PyTree, x: Array) -> Array:
        return jnp.broadcast_to(params["x"][None, :], x.shape)

    def metrics(outputs: Array, batch: Batch) -> dict[str, tuple[Array, Array]]:
        tilt = shield(batch.x, batch.mask)
        return {"loss": sum_where(heights(outputs, tilt), batch.mask)}

    return from_loss(init, losses, predict=predict, metrics=metrics)


def saddle(down: float = 1.0) -> Surface:
    """`x^2/2 - down y^2/2`: one strict saddle at zero, no minimum anywhere.

    Descent from `(x, 0)` ends at the saddle; from `(x, y)` with rate r it has
    `y_t = (1 + r down)^t y`.
    """
    number("down", down, above=0)
    return Surface("saddle", lambda p: 0.5 * (p[0] ** 2 - down * p[1] ** 2), 2)


def double_well(down: float = 1.0) -> Surface:
    """`x^2/2 - down y^2/2 + y^4/4`: the same saddle, and minima at `(0, +-sqrt(down))`.

    The minima's value is `-down^2/4`, their curvatures are 1 and `2 down`.
    """
    number("down", down, above=0)

    def value(p: Array) -> Array:
        return 0.5 * (p[0] ** 2 - down * p[1] ** 2) + 0.25 * p[1] ** 4

    return Surface("double well", value, 2)


def monkey_saddle() -> Surface:
    """`x^3 - 3 x y^2`: a degenerate saddle, whose Hessian at zero vanishes.

    Three valleys leave it (a monkey needs a third for its tail). Zero passes every test of
    second order for a minimum; anywhere else the Hessian's eigenvalues are `+-6 |p|`.
    """
    return Surface("monkey saddle", lambda p: p[0] ** 3 - 3 * p[0] * p[1] ** 2, 2)


def octopus(dim: int = 5, *, up: float = np.e, down: float = 1.0, width: float = np.e) -> Surface:
    """A chain of `dim` saddles, each reached along the stable manifold of the last.

    With `L, g, w = up, down, width`, inside the tube where the first i coordinates have passed
    `2 w` in absolute value, it is `sum_{j<=i} L (|x_j| - 4w)^2 - g x_{i+1}^2 + sum_{j>i+1} L x_j^2
    - i nu`, joined by splines where `|x_{i+1}|` is in `[w, 2w]`. Every tube squeezes the
    directions that the next ones need, so that descent needs about `(L / g)^i` times as long for
    the i-th saddle, where perturbed descent needs the same time for each. The `2^dim` minima lie
    at `|x_j| = 4w`. Outside the tubes (a later coordinate beyond w before its turn) the surface
    is not joined smoothly; descent from the box `|x_j| <= w` does not get there.

    Args:
      dim: number of saddles.
      up: curvature across the tubes.
      down: curvature along them, at the saddles.
      width: of the tubes.

    Reference: Du, Jin, Lee, Jordan, Poczos and Singh, Gradient Descent Can Take Exponential
      Time to Escape Saddle Points, 2017, arXiv:1705.10412, section 4 and appendix B.
    """
    integer("dim", dim, least=2)
    for name, given in (("up", up), ("down", down), ("width", width)):
        number(name, given, above=0)
    w = float(width)

    def along(a: Array) -> Array:
        """The spline of the leaving coordinate, `w <= a <= 2w`."""
        u = a - w
        cubic, quartic = (10 * down - 14 * up) / (3 * w), (5 * up - 3 * down) / (2 * w**2)
        return -down * a**2 + cubic * u**3 + quartic * u**4

    def across(a: Array) -> Array:
        """The curvature of the next coordinate meanwhile: from `up` down to `-down`."""
        u = (a - 2 * w) / w
        return -down - (up + down) * (10 * u**3 + 15 * u**4 + 6 * u**5)

    end = -4 * down * w**2 + w**2 * ((10 * down - 14 * up) / 3 + (5 * up - 3 * down) / 2)
    drop = 4 * up * w**2 - end

    def value(p: Array) -> Array:
        a = jnp.abs(p)
        done = jnp.cumprod(jnp.where(a >= 2 * w, 1, 0))
        passed = jnp.concatenate([jnp.ones((1,), done.dtype), done[:-1]])
        turn = (passed - done) == 1  # the coordinate that is leaving now
        between = turn & (a >= w)
        next_to = jnp.concatenate([jnp.zeros((1,), bool), between[:-1]])
        before = jnp.concatenate([jnp.full((1,), 2 * w, a.dtype), a[:-1]])
        stay = jnp.where(next_to, across(before), up) * p**2
        leave = jnp.where(between, along(a), -down * p**2)
        each = jnp.where(done == 1, up * (a - 4 * w) ** 2 - drop, jnp.where(turn, leave, stay))
        return jnp.sum(each)

    return Surface(f"octopus({dim})", value, dim)


def tilts(clients: int, dim: int, size: float, seed: int = 0) -> np.ndarray:
    """Tilts of clients that sum to zero: `[clients, dim]`, normal with standard deviation `size`.

    Args:
      clients: at least 1; one example each.
      dim: of the surface.
      size: how far clients disagree about the slope.
      seed: of the draw.
    """
    draw = np.random.default_rng(seed).normal(size=(clients, dim)) * size
    return draw - draw.mean(axis=0)
