"""Federated data: who holds what, datasets, reports. Host code in NumPy; imports no jax."""

from fedjax_sim.data import partition
from fedjax_sim.data.build import from_arrays
from fedjax_sim.data.bundled import digits
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.data.planted import feature_shifted, relabelled, rotated
from fedjax_sim.data.planted_regression import mixture_of_regressions
from fedjax_sim.data.readers.images import cifar10, cifar100, fashion_mnist, mnist
from fedjax_sim.data.readers.leaf import leaf
from fedjax_sim.data.readers.text import shakespeare
from fedjax_sim.data.registry import DATASETS, PARTITIONS, PLANTS
from fedjax_sim.data.report import federation_report, holdings_table, plot_holdings
from fedjax_sim.data.synthetic import planted_groups, quadratics, synthetic

__all__ = [
    "DATASETS",
    "PARTITIONS",
    "PLANTS",
    "Federation",
    "Shards",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "feature_shifted",
    "federation_report",
    "from_arrays",
    "holdings_table",
    "leaf",
    "mixture_of_regressions",
    "mnist",
    "partition",
    "planted_groups",
    "plot_holdings",
    "quadratics",
    "relabelled",
    "rotated",
    "shakespeare",
    "synthetic",
]
