"""How fast links are: 19 measured users, and a draw anew each round."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array

# Mean and standard deviation of down- and up-link of the 19 users in `speed_distri.json`, to six
# digits. From the FLASH repository (Yang et al., 2021, arXiv:2006.06983), BSD-2. Its unit "kb/s"
# is 1024 bytes a second: FLASH divides a model's bytes by 1024 and then by the speed.
# Held to the raw file by tests/systems/test_networks.py.
_USERS = (
    # down mean, down sigma, up mean, up sigma
    (7491.4, 3369.3, 4935.2, 2767.32),
    (4054.8, 1819.53, 3006.2, 890.082),
    (2370.21, 1388.18, 2774.24, 1096.95),
    (9913, 1551.04, 6635.41, 1459.54),
    (4208.66, 1481.62, 2974.47, 833.157),
    (3778.45, 2843.44, 2631.61, 1576.36),
    (3472.74, 1276.73, 5140.58, 2277.36),
    (4668.42, 612.605, 3205.47, 419.354),
    (3297.7, 771.328, 2336.61, 1609.95),
    (4283.58, 1560.97, 3641.61, 1495.02),
    (3658.14, 1315.89, 2546.86, 1089.04),
    (7214.08, 3363.21, 4039.69, 2189.02),
    (8885.47, 1999.11, 6278.57, 489.101),
    (5125, 2087.6, 3729.75, 461.479),
    (7271.27, 1914.01, 5742.53, 1964.13),
    (4317.63, 1264.95, 3285.69, 1018.3),
    (6708.07, 6738.47, 664.6, 312),
    (17332.7, 11181.6, 5641.45, 2549.77),
    (3176.81, 1837.99, 430.968, 157.727),
)
_BYTES = 1024.0
_LEAST = 1e-3


def mobile() -> np.ndarray:
    """Down mean, down sigma, up mean, up sigma of 19 users, in bytes/s.

    Returns:
      float64 `[19, 4]`.

    Example:
      >>> [round(float(v) / 1e6, 2) for v in np.median(mobile(), axis=0)]
      [4.42, 1.86, 3.36, 1.12]

    Reference: Yang et al., Characterizing Impacts of Heterogeneity in Federated Learning upon
      Large-Scale Smartphone Data, 2021, arXiv:2006.06983.
    """
    return np.array(_USERS, float) * _BYTES


def steady(down_bytes_per_s: float = 4.4e6, up_bytes_per_s: float = 3.4e6) -> np.ndarray:
    """One user whose links never vary, for baselines; by default the median user's means.

    Args:
      down_bytes_per_s: down-link, bytes/s.
      up_bytes_per_s: up-link, bytes/s.

    Returns:
      float64 `[1, 4]`, as `mobile`.
    """
    number("down_bytes_per_s", down_bytes_per_s, above=0)
    number("up_bytes_per_s", up_bytes_per_s, above=0)
    return np.array([[down_bytes_per_s, 0.0, up_bytes_per_s, 0.0]])


def draw_speed(luck: Array, mean: Array, sigma: Array) -> Array:
    """Links' speeds in one round: normal, drawn again while negative.

    That law is a truncated normal, drawn here at once, by the inverse of its distribution. Speeds
    near 0 are possible under it, and the mean time of a message would be infinite; so a speed is
    at least a thousandth of the mean.

    Args:
      luck: uniform in (0, 1) `[n]`, of the client, the round and the link.
      mean: of the normal before it is cut, bytes/s, positive `[n]`.
      sigma: of the normal before it is cut, bytes/s `[n]`; 0 gives the mean.

    Returns:
      float `[n]`, bytes/s.
    """
    root = math.sqrt(2.0)
    spread = jnp.maximum(sigma, 1e-6 * mean)
    lowest = jax.lax.erf(-mean / (root * spread))  # 2 Phi(-mean / sigma) - 1
    inside = jnp.minimum(lowest + luck * (1.0 - lowest), 1.0 - 1e-7)
    drawn = mean + spread * root * jax.lax.erf_inv(inside)
    return jnp.where(sigma > 0, jnp.maximum(drawn, _LEAST * mean), mean)
