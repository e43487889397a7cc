"""Federated data: who holds what, datasets, reports. Host code in NumPy; imports no jax."""

from fedjax_sim.data import partition
from fedjax_sim.data.build import from_arrays
from fedjax_sim.data.bundled import digits
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.data.readers.images import cifar10, cifar100, fashion_mnist, mnist
from fedjax_sim.data.readers.leaf import leaf
from fedjax_sim.data.readers.text import shakespeare
from fedjax_sim.data.registry import DATASETS, PARTITIONS
from fedjax_sim.data.report import federation_report, holdings_table, plot_holdings
from fedjax_sim.data.synthetic import planted_groups, quadratics, synthetic

__all__ = [
    "DATASETS",
    "PARTITIONS",
    "Federation",
    "Shards",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "federation_report",
    "from_arrays",
    "holdings_table",
    "leaf",
    "mnist",
    "partition",
    "planted_groups",
    "plot_holdings",
    "quadratics",
    "shakespeare",
    "synthetic",
]
