"""The spectral density of a Hessian: how many of its eigenvalues lie where."""

from __future__ import annotations

import dataclasses

import numpy as np

from fedjax_sim.diagnostics.lanczos import Krylov


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """A density of eigenvalues, as weights on points.

    Attributes:
      values: ascending `[n]`.
      weights: `[n]`, summing to 1: shares of the P eigenvalues.
      parameters: P.
      errors: `[n]`, how far each value may be from an eigenvalue.
      exact: the values are all P eigenvalues; else an estimate by quadrature.
    """

    values: np.ndarray
    weights: np.ndarray
    parameters: int
    errors: np.ndarray
    exact: bool

    def moment(self, power: int) -> float:
        """`trace(H^power) / P`: the mean of the eigenvalues' powers."""
        return float(np.sum(self.weights * self.values**power))

    def share(self, low: float, high: float) -> float:
        """The share of eigenvalues in `[low, high]`."""
        inside = (self.values >= low) & (self.values <= high)
        return float(np.sum(self.weights[inside]))

    def signs(self, zero: float) -> tuple[int, int, int]:
        """How many of the P eigenvalues are `(negative, flat or unresolved, positive)`.

        A value counts as negative or positive only where it is beyond `zero` by more than its
        own error: nodes of a quadrature stand for whole stretches of the spectrum, and the
        stretch around zero is often wider than `zero`.

        Args:
          zero: absolute values up to this count as flat.
        """
        below = self.parameters * float(np.sum(self.weights[self.values + self.errors < -zero]))
        above = self.parameters * float(np.sum(self.weights[self.values - self.errors > zero]))
        negative, positive = round(below), round(above)
        return negative, max(self.parameters - negative - positive, 0), positive

    def smooth(self, grid: np.ndarray, width: float) -> np.ndarray:
        """The density on `grid` `[k]`, each weight as a Gaussian of standard deviation `width`."""
        apart = (grid[:, None] - self.values[None, :]) / width
        bells = np.exp(-0.5 * apart**2) / (width * np.sqrt(2 * np.pi))
        return bells @ self.weights


def spectrum_of(krylov: Krylov) -> Spectrum:
    """The density that a run of block Lanczos from a random first block stands for.

    Stochastic Lanczos quadrature: Ritz values are the nodes and the first block's shares in the
    Ritz vectors the weights, `w_j = |first b rows of s_j|^2 / b`. From a Haar block the k-th
    moment has expectation `trace(H^k) / P` for `k < 2 n / b`, and its standard deviation falls
    as `1 / sqrt(b P)`.

    Reference: Ubaru, Chen and Saad, Fast estimation of tr(f(A)) via stochastic Lanczos
      quadrature, SIAM J. Matrix Anal. Appl. 38(4), 2017; for the Hessians of networks Ghorbani,
      Krishnan and Xiao, 2019, arXiv:1901.10159. Ours starts from a block in place of b runs.
    """
    n = krylov.basis.shape[1]
    whole = krylov.exact and len(krylov.values) == n
    weights = np.full(n, 1 / n) if whole else krylov.weights
    return Spectrum(krylov.values, weights, n, krylov.errors, whole)
