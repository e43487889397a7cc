"""Block Lanczos with full reorthogonalisation: the ends of a spectrum, and its density.

The basis and all small matrices are float64 NumPy on the host; only the products come from
elsewhere. What is kept of a product is exact: `A Q = Q T + R E`, with all of T computed and not
only its band. A product with rounding errors (float32) therefore shows in T as a lack of
symmetry, and every error bound counts it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from threadpoolctl import threadpool_limits

from fedjax_sim.core.checks import integer
from fedjax_sim.engine.plan import refuse_oversize

Matrix: TypeAlias = np.ndarray
Multiply: TypeAlias = Callable[[Matrix], Matrix]
"""`(V [b, P]) -> [b, P]`: a symmetric matrix times each row."""


@dataclasses.dataclass(frozen=True)
class Krylov:
    """What a run of block Lanczos knows of a symmetric matrix.

    Attributes:
      basis: orthonormal rows `[n, P]`.
      values: Ritz values, ascending `[n]`; each is a Rayleigh quotient, so the lowest is never
        below the lowest eigenvalue but for `noise`, and the highest never above the highest.
      errors: `[n]`; an eigenvalue lies within so much of each value.
      weights: `[n]`, summing to 1: how much of the first block lies along each Ritz vector.
      rotation: `[n, n]`, Ritz vectors in the basis, one a column.
      products: matrix-vector products spent.
      exact: whether the basis spans an invariant space: every Ritz value is an eigenvalue.
      noise: how far the products are from those of a symmetric matrix, a spectral norm.
    """

    basis: Matrix
    values: Matrix
    errors: Matrix
    weights: Matrix
    rotation: Matrix
    products: int
    exact: bool
    noise: float

    @property
    def size(self) -> float:
        """The largest absolute Ritz value, a lower bound of the matrix's norm."""
        return float(np.max(np.abs(self.values)))

    def vector(self, index: int) -> Matrix:
        """The Ritz vector `[P]` of `values[index]`, of length 1."""
        found = self.rotation[:, index] @ self.basis
        return found / np.linalg.norm(found)


def random_block(block: int, n: int, seed: int = 0) -> Matrix:
    """Orthonormal rows `[block, n]`, uniform among all such (Haar)."""
    draw = np.random.default_rng(seed).normal(size=(min(block, n), n))
    return np.linalg.qr(draw.T)[0].T


def block_lanczos(
    multiply: Multiply,
    first: Matrix,
    *,
    steps: int,
    epsilon: float = 2.0**-52,
    done: Callable[[Krylov], bool] = lambda krylov: False,
    on_step: Callable[[Krylov], None] = lambda krylov: None,
) -> Krylov:
    """Extend the Krylov space of a symmetric matrix A block by block.

    With Q the rows so far and `W = A q_j` for the newest block, T gains the columns `Q W`;
    what is left of W after taking Q out (twice) is the next block. Directions that have nothing
    left are dropped; when none is left, the space is invariant and the answer exact.

    Args:
      multiply: A times each row of `[b, P]`; always called with b rows.
      first: orthonormal rows `[b, P]`.
      steps: blocks at most.
      epsilon: rounding unit of the products.
      done: asked after every block whether what is known will do.
      on_step: told after every block.

    Returns:
      `Krylov` with n at most `steps x b`.

    Raises:
      InputError: the basis would not fit into memory.

    Cost: b products a block; memory `8 n P` bytes; `6 n^2 P` operations for the basis in all.

    Reference: Golub and Underwood, The block Lanczos method for computing eigenvalues, 1977;
      full reorthogonalisation as in Parlett, The Symmetric Eigenvalue Problem, 1980, ch. 13.
    """
    integer("steps", steps, least=1)
    block, n = first.shape
    most = min(steps * block, n)
    words = f"a basis of {most} vectors of {n:,} parameters"
    refuse_oversize("steps", words, 8 * most * n, 1, "take fewer steps or a smaller block")
    basis, t = np.empty((most, n)), np.zeros((most, most))
    basis[:block], have, newest = first, block, slice(0, block)
    scale, krylov = 0.0, None
    # Products of a few long rows: a second BLAS thread gains little, and loses much where it waits
    # for a core that XLA's threads have (5 times as long measured on two busy cores).
    with threadpool_limits(limits=1, user_api="blas"):
        for step in range(1, steps + 1):
            padded = np.zeros((block, n))
            padded[: newest.stop - newest.start] = basis[newest]
            w = np.array(multiply(padded), np.float64)[: newest.stop - newest.start]
            scale = max(scale, float(np.max(np.linalg.norm(w, axis=1), initial=0.0)))
            t[:have, newest] = _orthogonalise(w, basis[:have])
            rest, share = _split(w, basis[:have], room=n - have, least=8 * epsilon * scale)
            tail = share if len(rest) else np.zeros((0, share.shape[1]))
            ended = not len(rest)
            krylov = _ritz(basis[:have], t[:have, :have], tail, newest, block, step * block, ended)
            on_step(krylov)
            if ended or have + len(rest) > most or done(krylov):
                break
            basis[have : have + len(rest)] = rest
            t[have : have + len(rest), newest] = share
            newest = slice(have, have + len(rest))
            have += len(rest)
    assert krylov is not None
    return krylov


def dense(
    multiply: Multiply,
    n: int,
    *,
    block: int,
    on_step: Callable[[Krylov], None] = lambda krylov: None,
) -> Krylov:
    """All eigenpairs of a small matrix, from its products with the unit vectors.

    Args:
      multiply: A times each row of `[block, n]`.
      n: order of A.
      block: rows a product.
      on_step: told at the end.

    Cost: n products, 8 n^2 bytes thrice, `n^3` operations.
    """
    columns, eye = np.empty((n, n)), np.eye(n)
    for start in range(0, n, block):
        rows = np.zeros((block, n))
        part = eye[start : start + block]
        rows[: len(part)] = part
        columns[start : start + len(part)] = np.array(multiply(rows), np.float64)[: len(part)]
    symmetric = (columns + columns.T) / 2
    values, rotation = np.linalg.eigh(symmetric)
    noise = float(np.linalg.norm(columns - symmetric, 2))
    krylov = Krylov(
        basis=eye,
        values=values,
        errors=np.full(n, noise),
        weights=np.full(n, 1 / n),
        rotation=rotation,
        products=block * -(-n // block),
        exact=True,
        noise=noise,
    )
    on_step(krylov)
    return krylov


def _orthogonalise(w: Matrix, basis: Matrix) -> Matrix:
    """Take the basis out of the rows of w, in place; the coefficients `[n, b]` taken out."""
    first = basis @ w.T
    w -= first.T @ basis
    second = basis @ w.T
    w -= second.T @ basis
    return first + second


def _split(w: Matrix, basis: Matrix, *, room: int, least: float) -> tuple[Matrix, Matrix]:
    """Orthonormal rows that span the rows of w, and w in them: `w = share.T @ rows`.

    Directions shorter than `least` are left out; so are those beyond `room`, of which there are
    none but for rounding.
    """
    q, r = np.linalg.qr(w.T)
    left, lengths, right = np.linalg.svd(r)
    keep = min(int(np.sum(lengths > least)), room)
    rows = np.ascontiguousarray((q @ left[:, :keep]).T)
    _orthogonalise(rows, basis)
    fine, change = np.linalg.qr(rows.T)
    share = change @ (lengths[:keep, None] * right[:keep])
    return np.ascontiguousarray(fine.T), share


def _ritz(
    basis: Matrix, t: Matrix, tail: Matrix, newest: slice, block: int, products: int, exact: bool
) -> Krylov:
    """Eigenpairs of the symmetric part of T, with the residual that each leaves."""
    symmetric = (t + t.T) / 2
    values, rotation = np.linalg.eigh(symmetric)
    inside = (t - symmetric) @ rotation
    outside = tail @ rotation[newest]
    errors = np.sqrt(np.sum(inside**2, axis=0) + np.sum(outside**2, axis=0))
    return Krylov(
        basis=basis,
        values=values,
        errors=errors,
        weights=np.sum(rotation[:block] ** 2, axis=0) / block,
        rotation=rotation,
        products=products,
        exact=exact,
        noise=float(np.linalg.norm(t - symmetric, 2)),
    )
