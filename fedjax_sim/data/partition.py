"""Partitions: who holds which examples.

A factory such as `dirichlet(clients=100, alpha=0.3)` gives a `Partition`, and
`from_arrays(x, y, partition)` or a bundled dataset applies it. All are direct (nothing is
drawn again until it fits), seeded, and vectorised to a million clients.

Example:
  >>> import numpy as np
  >>> order, sizes = shards(clients=3, per_client=1).assign(
  ...     np.array([2, 0, 1, 0, 2, 1]), 6, np.random.default_rng(0)
  ... )
  >>> sizes.tolist()
  [2, 2, 2]
"""

from fedjax_sim.data.partition_base import Partition
from fedjax_sim.data.partition_labels import classes, dirichlet, shards
from fedjax_sim.data.partition_sizes import iid, natural, sizes, sizes_lognormal, sizes_powerlaw
from fedjax_sim.data.planted_partition import label_groups

__all__ = [
    "Partition",
    "classes",
    "dirichlet",
    "iid",
    "label_groups",
    "natural",
    "shards",
    "sizes",
    "sizes_lognormal",
    "sizes_powerlaw",
]
