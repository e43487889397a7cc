"""Soft groups: how much each client belongs to each."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.core.types import Array
from fedjax_sim.grouping.kmeans import kmeans
from fedjax_sim.grouping.lloyd import squared_distances
from fedjax_sim.grouping.types import Grouper, Groups, features, settled


def softmax_distances(x: Any, centers: Array, *, temperature: float | Array = 1.0) -> Array:
    """`softmax_j(-|x_i - c_j|^2 / temperature)`: memberships `[N, k]`, rows sum to 1.

    Args:
      x: features `[N, d]`.
      centers: `[k, d]`.
      temperature: in squared units of the features; toward 0 memberships turn hard.

    Cost: `2 N k d` operations, `N k` memory.
    """
    table, mask = features(x)
    return _softmax_distances(table, mask, centers, temperature)


@jax.jit
def _softmax_distances(
    table: Array, mask: Array, centers: Array, temperature: float | Array
) -> Array:
    logits = -squared_distances(table, centers) / temperature
    return jnp.where(mask[:, None], jax.nn.softmax(logits, axis=1), 0)


@jax.jit
def from_losses(
    losses: Any, weights: Any = None, *, examples: Any = None, temperature: float | Array = 1.0
) -> Array:
    """Memberships `[N, M]` of clients in M models from their losses.

        p_im  ~  w_m exp(-n_i loss_im / temperature)

    Args:
      losses: `[N, M]`, each client's mean loss at each model.
      weights: `[M]` or `[N, M]`, prior shares; uniform when None.
      examples: `[N]`, n_i; 1 when None. With negative log-likelihoods as losses, n_i examples
        and temperature 1 this is the posterior of client i being of component m.
      temperature: in units of loss.

    Reference: Marfoq et al., Federated Multi-Task Learning under a Mixture of Distributions,
      2021, arXiv:2108.10252, equation 9, which is this for one example.
    """
    losses = jnp.asarray(losses, jnp.result_type(float))
    if losses.ndim != 2:
        raise InputError("losses", f"shape {losses.shape}", "must be [N, M]")
    n = jnp.ones(losses.shape[0], losses.dtype) if examples is None else jnp.asarray(examples)
    logits = -losses * n.astype(losses.dtype)[:, None] / temperature
    if weights is not None:
        prior = jnp.log(jnp.asarray(weights, losses.dtype))
        logits = logits + jnp.broadcast_to(prior if prior.ndim == 2 else prior[None], logits.shape)
    return jax.nn.softmax(logits, axis=1)


@jax.jit
def entropy(memberships: Array) -> Array:
    """How undecided each client is: entropy over `log k`, `[N]` in [0, 1].

    0 for a client in one group only (and where k is 1), 1 for one that is in all alike.
    """
    p = memberships
    total = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0), axis=1)
    return total / math.log(p.shape[1]) if p.shape[1] > 1 else total


def mixture(
    k: int, *, iterations: int = 200, tolerance: float = 1e-6, restarts: int = 4
) -> Grouper:
    """A mixture of k spherical Gaussians, fitted by expectation maximization.

        r_ij ~ pi_j N(x_i; c_j, v_j I),   pi_j = mean_i r_ij,
        c_j = sum_i r_ij x_i / sum_i r_ij,   v_j = sum_i r_ij |x_i - c_j|^2 / (d sum_i r_ij)

    Starts from `kmeans`. Variances are kept at least 1e-6 of the features' mean variance, so that a
    group of one or of identical clients does no harm. Ids are the largest memberships. Works in
    jit and vmap.

    Args:
      k: groups.
      iterations: at most.
      tolerance: stop when the mean log-likelihood gains less.
      restarts: of the k-means.

    Returns:
      A `Grouper` of features; info: `sizes`, `memberships` `[N, k]` (zero rows for absent
      clients), `centers` `[k, d]`, `variances` `[k]`, `shares` `[k]`, `log_likelihood` `()`
      the mean over clients, `iterations`.

    Cost: `4 N k d` operations an iteration, `N k` memory.
    Reference: Dempster, Laird, Rubin, Maximum Likelihood from Incomplete Data via the EM
      Algorithm, 1977; scikit-learn's `GaussianMixture(covariance_type="spherical")`.
    """
    integer("k", k, least=1)
    integer("iterations", iterations, least=1)
    number("tolerance", tolerance, least=0.0)
    seeds = kmeans(k, restarts=restarts)

    def fit(key: Array, x: Any, mask: Any = None) -> Groups:
        x, present = features(x, mask, k=k)
        start = seeds.fit(key, x, present).ids
        return _fit(x, present, start, tolerance, k, iterations)

    def assign(groups: Groups, x: Any) -> Array:
        x, present = features(x)
        info = groups.info
        logits = _log_densities(x, info["shares"], info["centers"], info["variances"])
        return jnp.where(present, jnp.argmax(logits, axis=1), -1).astype(jnp.int32)

    return Grouper(fit, "features", assign, host=False)


@jax.jit
def _log_densities(x: Array, shares: Array, centers: Array, variances: Array) -> Array:
    """`log pi_j + log N(x_i; c_j, v_j I)`, `[N, k]`."""
    d = x.shape[1]
    square = squared_distances(x, centers)
    safe = jnp.log(jnp.where(shares > 0, shares, 1))
    # Nobody present: all shares are zero, and any prior does.
    prior = jnp.where((shares > 0) | ~jnp.any(shares > 0), safe, -jnp.inf)
    spread = d * jnp.log(2 * math.pi * variances)
    return (prior - spread / 2)[None] - square / (2 * variances)[None]


@functools.partial(jax.jit, static_argnames=("k", "iterations"))
def _fit(x: Array, mask: Array, start: Array, tolerance: float, k: int, iterations: int) -> Groups:
    there = mask.astype(x.dtype)
    count, d = jnp.maximum(jnp.sum(there), 1), x.shape[1]
    middle = jnp.sum(x * there[:, None], axis=0) / count
    x = jnp.where(mask[:, None], x - middle[None], 0)
    variance = jnp.sum(jnp.square(x)) / (count * d)
    floor = jnp.maximum(1e-6 * variance, jnp.finfo(x.dtype).tiny * 1e6)

    def maximize(r: Array) -> tuple[Array, Array, Array]:
        n = jnp.sum(r, axis=0)
        safe = jnp.where(n > 0, n, 1)
        centers = jnp.matmul(r.T, x, precision=jax.lax.Precision.HIGHEST) / safe[:, None]
        v = jnp.sum(r * squared_distances(x, centers), axis=0) / (d * safe)
        return n / count, centers, jnp.maximum(v, floor)

    def expect(shares: Array, centers: Array, variances: Array) -> tuple[Array, Array]:
        logits = _log_densities(x, shares, centers, variances)
        total = jax.nn.logsumexp(logits, axis=1)
        r = jnp.exp(logits - total[:, None]) * there[:, None]
        return r, jnp.sum(jnp.where(mask, total, 0)) / count

    def going(carry: tuple[Array, ...]) -> Array:
        return (carry[3] < iterations) & (carry[1] - carry[2] > tolerance)

    def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        r, now, _, t = carry
        r, after = expect(*maximize(r))
        return r, after, now, t + 1

    first = (start[:, None] == jnp.arange(k)[None]).astype(x.dtype)
    # Two numbers apart: the first comparison always goes on.
    low = jnp.full((), -jnp.finfo(x.dtype).max / 4, x.dtype)
    r, level, _, rounds = jax.lax.while_loop(
        going, step, (first, low, low * 2, jnp.zeros((), jnp.int32))
    )
    shares, centers, variances = maximize(r)
    return settled(
        jnp.argmax(r, axis=1),
        mask,
        k,
        memberships=r,
        centers=centers + middle[None],
        variances=variances,
        shares=shares,
        log_likelihood=level,
        iterations=rounds,
    )
