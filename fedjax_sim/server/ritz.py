"""The lowest eigenvector of a Hessian, one product a round: Rayleigh-Ritz on three vectors.

Each round brings one Hessian-vector product. The best vector known is kept with its product;
so is the direction of the last improvement. The next product is asked for the residual, and the
three span a space in which the best vector is found exactly. That is the locally optimal
conjugate-gradient recurrence of LOBPCG (Knyazev, Toward the Optimal Preconditioned
Eigensolver, SIAM J. Sci. Comput. 23(2), 2001, algorithm 5.1 with one vector and no
preconditioner), which converges about as Lanczos does and needs no basis that grows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.types import Array, PyTree
from fedjax_sim.server.directions import add_scaled, dot, norm, unit


class Pair(NamedTuple):
    """A vector and the Hessian's product with it."""

    vector: PyTree
    product: PyTree


class Ritz(NamedTuple):
    """The recurrence between two rounds.

    Attributes:
      best: unit vector of the smallest Rayleigh quotient so far.
      last: unit vector orthogonal to `best`, along the last improvement; zero after a restart.
      asked: unit vector whose product comes next; zero before the first round.
      age: int32, products since the start: -1 nothing is known, 0 `best` itself is asked for,
        else `asked` is orthogonal to `best` and `last`.
    """

    best: Pair
    last: Pair
    asked: PyTree
    age: Array


def nothing(like: PyTree) -> Ritz:
    """Before the first round: asks for the product with zero, which is zero."""
    zeros = tree.zeros(like)
    pair = Pair(zeros, zeros)
    return Ritz(pair, pair, zeros, jnp.full((), -1, jnp.int32))


def start(vector: PyTree) -> Ritz:
    """Begin at a unit vector, whose product is asked for next."""
    zeros = tree.zeros(vector)
    return Ritz(Pair(vector, zeros), Pair(zeros, zeros), vector, jnp.zeros((), jnp.int32))


def absorb(ritz: Ritz, product: PyTree) -> Ritz:
    """Take in the product that was asked for; `asked` stays and is used up."""
    asked = Pair(ritz.asked, product)
    known = ritz.age < 1
    best, last = _rayleigh_ritz(ritz.best, asked, ritz.last)
    zeros = tree.zeros(ritz.last)
    return ritz._replace(
        best=tree.where(known, Pair(ritz.best.vector, product), best),
        last=tree.where(known, zeros, last),
    )


def quotient(ritz: Ritz) -> tuple[Array, Array]:
    """`(Rayleigh quotient, norm of the residual)` of the best vector.

    An eigenvalue lies within the residual's norm of the quotient, for it is symmetric.
    """
    value = dot(ritz.best.vector, ritz.best.product)
    return value, norm(add_scaled(ritz.best.product, ritz.best.vector, -value))


def proceed(ritz: Ritz) -> Ritz:
    """Ask for the residual, made orthogonal to `best` and `last` twice over."""
    rest = ritz.best.product
    for _ in range(2):
        rest = add_scaled(rest, ritz.best.vector, -dot(ritz.best.vector, rest))
        rest = add_scaled(rest, ritz.last.vector, -dot(ritz.last.vector, rest))
    return ritz._replace(asked=unit(rest), age=ritz.age + 1)


def _rayleigh_ritz(best: Pair, asked: Pair, last: Pair) -> tuple[Pair, Pair]:
    """The new `best` and `last` in the span of three orthonormal (or zero) vectors."""
    pairs = (best, asked, last)
    raw = jnp.stack([jnp.stack([dot(a.vector, b.product) for b in pairs]) for a in pairs])
    small = (raw + raw.T) / 2
    # A vector that is zero would offer the quotient 0 for nothing.
    empty = jnp.stack([dot(p.vector, p.vector) < 0.5 for p in pairs])
    small = small + jnp.diag(jnp.where(empty, 1 + 4 * jnp.max(jnp.abs(small)), 0))
    weights = jnp.linalg.eigh(small)[1][:, 0]
    weights = weights * jnp.where(weights[0] < 0, -1, 1)
    moved = jnp.sqrt(jnp.sum(weights[1:] ** 2))
    share = weights[0] / jnp.where(moved > 0, moved, 1)
    across = jnp.concatenate([-moved[None], share * weights[1:]])
    return _combine(pairs, weights), _combine(pairs, across)


def _combine(pairs: tuple[Pair, Pair, Pair], weights: Array) -> Pair:
    """The combination of vectors and of products, with its vector's length made 1 (or 0)."""
    mixed = tree.scale(pairs[0], weights[0])
    for i in (1, 2):
        mixed = add_scaled(mixed, pairs[i], weights[i])
    length = norm(mixed.vector)
    return tree.scale(mixed, jnp.where(length > 0.5, 1 / jnp.where(length > 0.5, length, 1), 0))
