"""A mixture of linear regressions: hidden groups whose best models are known exactly."""

from __future__ import annotations

import numpy as np

from fedjax_sim.core.checks import choice, integer, number
from fedjax_sim.data.build import from_arrays
from fedjax_sim.data.federated import Federation
from fedjax_sim.data.partition_sizes import natural


def mixture_of_regressions(
    clients: int = 100,
    examples: int = 100,
    dim: int = 1000,
    groups: int = 2,
    *,
    sigma: float = 0.001,
    radius: float = 1.0,
    seed: int = 0,
    test_fraction: float = 0.0,
    validation_fraction: float = 0.0,
    dtype: str = "float32",
) -> Federation:
    """Every client's targets come from one of M linear models: `y = <x, theta_g> + sigma z`.

    Inputs and z are standard normal. Coordinates of theta_g are Bernoulli(1/2), then the vector
    is scaled to length `radius`; two of them lie about `radius` apart.

    Args:
      clients: N.
      examples: n, examples of each client before the splits.
      dim: d.
      groups: M, at most N; groups are equally large up to one, their members random.
      sigma: standard deviation of the targets' noise, at least 0.
      radius: length of every theta_g.
      seed: of everything.
      test_fraction: share of each client's examples that it is tested on.
      validation_fraction: share of each client's examples that it may tune on.
      dtype: `float32` or `float64`.

    Returns:
      A `Federation` without classes, x `[E, d]`, y `[E]`; `meta["group"]` int64 `[N]` and
      `meta["theta"]` float64 `[M, d]`.

    Cost: N n d numbers; 40 MB as by default.

    Example:
      >>> fed = mixture_of_regressions(clients=4, examples=3, dim=2, groups=2, sigma=0.0)
      >>> x, y = fed.train.client(1)
      >>> bool(np.allclose(x @ fed.meta["theta"][fed.meta["group"][1]], y, atol=1e-6))
      True

    Reference: A. Ghosh, J. Chung, D. Yin, K. Ramchandran, "An Efficient Framework for Clustered
    Federated Learning", 2020, arXiv:2006.04088, section 6.1. The authors' public code does not
    scale to a length: its coordinates are 0 or r, a length of about `r sqrt(d / 2)`.
    """
    groups = integer("groups", groups, least=1)
    clients = integer("clients", clients, least=groups)
    examples, dim = integer("examples", examples, least=1), integer("dim", dim, least=1)
    number("sigma", sigma, least=0)
    number("radius", radius, above=0)
    choice("dtype", dtype, ("float32", "float64"))
    rng = np.random.default_rng(integer("seed", seed, least=0))
    group = rng.permutation(np.arange(clients) % groups)
    theta = rng.integers(0, 2, (groups, dim)).astype(np.float64)
    theta[~theta.any(axis=1), 0] = 1.0  # a draw of zeros only has no length
    theta *= radius / np.linalg.norm(theta, axis=1, keepdims=True)
    # In the end's precision from the start: at float64 the inputs would be held twice.
    x = rng.standard_normal((clients, examples, dim), np.dtype(dtype).type)
    y = np.einsum("ned,nd->ne", x, theta[group])
    y += sigma * rng.standard_normal((clients, examples))
    return from_arrays(
        x.reshape(-1, dim),
        y.reshape(-1),
        natural(np.repeat(np.arange(clients), examples)),
        seed=seed,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        dtype=dtype,
        name=f"mixture of {groups} regressions",
        meta={"group": group, "theta": theta},
    )
